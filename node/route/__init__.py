"""Rules: which series, or sets of series, go to which model.

Enters: the header of a series (``node.domain.header.Header``, derived attributes included) and rules
as mappings, the way they stand in YAML. Leaves: a ``Verdict`` per rule with one child per clause
(true, false, or unknown with the reason), the choice of one series per role for study rules, and an
explanation for people. Pure: no file, socket, database or clock.

- ``attributes``: what a clause may name: DICOM keywords and the derived attributes;
- ``conditions``: one frozen class per condition, the table of operators, verdicts;
- ``compiling``: mapping -> condition or rule, every mistake collected with its path;
- ``rules``: what a rule says of a series, explained as JSON and as lines of text;
- ``sets``: one series per role, or why not yet;
- ``contradiction``: whether two conditions can ever be true together.

Can fail: ``ConfigInvalid`` when a rule is compiled. A compiled rule cannot fail: what it cannot read
is unknown. A rule fires only on true; absent, different between instances, empty and malformed are
unknown, and and/or/not follow Kleene's strong logic, so that ``not`` never makes a yes of what nobody
knows. ``docs/rules.md`` is the operator's page.

The attribute types follow PS3.5 6.2 (value representations) and PS3.6 (data dictionary).
"""
