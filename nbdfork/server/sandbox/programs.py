"""The sandbox of programs that serve clients without being workers: helpers of scripts.

Such a program is started before there are workers, forks for each, and changes its user to that of
a worker if that has another one.  So it keeps what root needs to do that.  It enters its sandbox
just before it begins, and what it forks is inside; that has no sandbox of its own.
"""

import os
from collections.abc import Callable

from nbdfork.server.sandbox import capabilities
from nbdfork.server.sandbox.sandbox import Plan, Sandbox
from nbdfork.types import Needs


def confinement(plan: Plan) -> Callable[[], None] | None:
    """Return what a process calls that is to become such a program (it raises OSError, or
    ValueError of a limit); None if *plan* takes nothing away.

    Raises `StartupError`, as `Sandbox` does.
    """
    if plan.mode == "off" and not plan.limits:
        return None
    changes_user = plan.users is not None or plan.uid != os.geteuid()
    limits = dict(plan.limits)
    if plan.users is not None:
        limits.pop("processes", None)  # those of its user: root, until it has forked
    sandbox = Sandbox(
        plan._replace(limits=limits, users=None),
        Needs(anything=True),
        one_client=False,
        for_programs=capabilities.IDENTITY if changes_user else 0,
    )
    return sandbox.enter
