"""Words: what rows and reasons say to people. The only room that makes sentences of facts.

Enters: reasons (``node.domain.reasons``) and rows as the catalogs read them. Leaves: sentences, for
the command line, the API, the log and the text of a DICOM object.

- ``tell``: one reason in words; ``tell_all``: several in one line;
- ``show_series``, ``show_match``, ``show_job``, ``show_delivery``: a row for people and programs:
  ``reasons`` become codes, and ``sentence`` says them, with the command that frees what is stuck.
- ``show_degraded``, ``show_finding``: what is the matter with the node, and what to do; ``show_count``: a number that may
  have been counted no further than ``COUNTED``.

A node and ``segnode run`` have different commands, so who is spoken to is an argument
(``Audience``). No code reads what is made here: words may change without a decision changing.
"""

from node.words.health import show_count as show_count
from node.words.health import show_degraded as show_degraded
from node.words.health import show_finding as show_finding
from node.words.health import tell_finding as tell_finding
from node.words.health import tell_what_to_do as tell_what_to_do
from node.words.rows import Audience as Audience
from node.words.rows import show_delivery as show_delivery
from node.words.rows import show_job as show_job
from node.words.rows import show_match as show_match
from node.words.rows import show_series as show_series
from node.words.rows import tell as tell
from node.words.rows import tell_all as tell_all
