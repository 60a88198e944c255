"""Work that may crash, done by a command in a child of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from node.cli.printing import plain
from node.domain.errors import NodeError
from node.words import tell_all


def run_in_child(
    target: str,
    request: Mapping[str, Any],
    *,
    device: str,
    deadline_s: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """What a target of the runner's child answers.

    Args:
        tell: Gets one sentence per stage and remark.
    Raises:
        NodeError: It failed, with its sentence.
    """
    # imported where it is used: a list of models must not wait for it
    from node.infer.runner import Failed, Finished, Noted, Runner, StageFinished

    with Runner(device=device) as runner:
        runner.start(target, request, deadline_s=deadline_s)
        while True:
            for event in runner.poll(1.0):
                match event:
                    case StageFinished(name=name, seconds=seconds):
                        tell(f"{name}: {seconds:.2f} s")
                    case Noted(sentence=sentence):
                        tell(sentence)
                    case Finished(result=result):
                        return dict(result)
                    case Failed(sentence=sentence, reasons=reasons):
                        raise NodeError(plain(tell_all(reasons) or sentence))
