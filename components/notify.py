"""The component that tells what became of a retraining."""

from kfp import dsl
from kfp.dsl import Artifact, Input

from radtransfer_components.support import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(
    name: str,
    run: str,
    code_version: str,
    decision: Input[Artifact] = None,  # type: ignore[assignment]
) -> None:
    """Post what was decided, or that nothing changed where nothing was, to the webhook, if the Secret names one."""
    from radtransfer_components import support

    with support.task("notify", code_version=code_version) as call:
        from radtransfer.registry.notify import notify as step

        made = support.expect(decision.path, "decision").content if decision else {}
        call(
            step,
            event=made.get("outcome", "unchanged"), model=name, run=run, decision=made,
            why="not comparable; see the decision of the run" if made else "data, code and configuration are as before",
        )  # fmt: skip
