"""The packet filter's programs, run by a small machine of the test: what becomes of which call."""

import errno
import socket

import pytest

from nbdfork.server.sandbox import calls, seccomp

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED = 0x7FFF0000
KILLED = 0x80000000

NO_SOCKETS = seccomp.Sockets(network=False, log=False)
NETWORK = seccomp.Sockets(network=True, log=False)
LOG = seccomp.Sockets(network=False, log=True)


def run(program: list[seccomp.Instruction], architecture: int, number: int, *args: int) -> int:
    """Return what *program* says of a call."""
    padded = [*args, 0, 0, 0, 0, 0, 0][:6]
    words = [number, architecture, 0, 0]
    for one in padded:
        words += [one & 0xFFFFFFFF, one >> 32 & 0xFFFFFFFF]
    place, accumulator = 0, 0
    while True:
        code, if_so, if_not, value = program[place]
        place += 1
        if code == 0x20:
            accumulator = words[value // 4]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            place += value
        elif code == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            place += if_so if holds else if_not


@pytest.fixture(params=calls.MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def verdict(
    machine: str,
    name: str,
    *args: int,
    programs: bool = False,
    sockets: seccomp.Sockets = NO_SOCKETS,
) -> int | None:
    """Return the errno that the call fails with; 0 if it passes, None if the machine has it not."""
    number = calls.numbers_of(machine).get(name)
    if number is None:
        return None
    program = seccomp.program(machine, programs=programs, sockets=sockets)
    result = run(program, ARCHITECTURES[machine], number, *args)
    return 0 if result == ALLOWED else result & 0xFFFF


def test_what_is_in_no_list_passes(machine: str) -> None:
    program = seccomp.program(machine, programs=False, sockets=NO_SOCKETS)
    listed = set(calls.numbers_of(machine).values())
    for number in range(600):
        if number not in listed:
            assert run(program, ARCHITECTURES[machine], number) == ALLOWED


@pytest.mark.parametrize("programs", [False, True])
def test_what_is_refused_is_refused(machine: str, programs: bool) -> None:
    for name in seccomp.refused(machine, programs=programs):
        absent = name == "clone3" or name.startswith("io_uring")
        expected = errno.ENOSYS if absent else errno.EPERM
        assert verdict(machine, name, programs=programs) == expected, name


def test_programs(machine: str) -> None:
    for name in ("execve", "execveat", "fork", "vfork"):
        assert verdict(machine, name) in (errno.EPERM, None)
        assert verdict(machine, name, programs=True) in (0, None)


def test_threads_pass_and_processes_and_namespaces_do_not(machine: str) -> None:
    thread, process, new_user = 0x10000 | 0xF00, 17, 0x10000000
    assert verdict(machine, "clone", thread) == 0
    assert verdict(machine, "clone", process) == errno.EPERM
    assert verdict(machine, "clone", process, programs=True) == 0
    for flags in (new_user, thread | 0x40000000, process | 0x20000):
        assert verdict(machine, "clone", flags, programs=True) == errno.EPERM


def test_sockets(machine: str) -> None:
    unix, stream, datagram = socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
    families = (unix, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK)
    for family in map(int, families):
        assert verdict(machine, "socket", family, stream) == errno.EPERM
        assert verdict(machine, "socket", family, stream, sockets=NETWORK) == 0
    for family in (int(socket.AF_PACKET), int(socket.AF_ALG), 99):
        assert verdict(machine, "socket", family, sockets=NETWORK) == errno.EAFNOSUPPORT
    close_on_exec = datagram | socket.SOCK_CLOEXEC
    assert verdict(machine, "socket", unix, close_on_exec, sockets=LOG) == 0
    assert verdict(machine, "socket", unix, stream, sockets=LOG) == errno.EPERM
    assert verdict(machine, "socket", socket.AF_INET, datagram, sockets=LOG) == errno.EPERM


def test_only_of_itself_a_process_can_change_how_it_runs(machine: str) -> None:
    for name in ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        assert verdict(machine, name, 0) == 0
        assert verdict(machine, name, 1) == errno.EPERM
    assert verdict(machine, "prlimit64", 0, 7, 0xFFFF00000000) == 0
    assert verdict(machine, "prlimit64", 1, 7, 0) == 0  # only looks
    assert verdict(machine, "prlimit64", 1, 7, 0xFFFF00000000) == errno.EPERM
    assert verdict(machine, "prlimit64", 1, 7, 0x1000) == errno.EPERM
    assert verdict(machine, "setpriority", 0, 0) == 0
    assert verdict(machine, "setpriority", 2, 0) == errno.EPERM  # all of the user's
    assert verdict(machine, "ioprio_set", 1, 0) == 0
    assert verdict(machine, "ioprio_set", 3, 0) == errno.EPERM


def test_terminals_and_personalities(machine: str) -> None:
    assert verdict(machine, "ioctl", 0, 0x5401) == 0
    assert verdict(machine, "ioctl", 0, 0x5412) == errno.EPERM
    assert verdict(machine, "ioctl", 0, 0xFF00005412) == errno.EPERM  # only half of it counts
    assert verdict(machine, "personality", 0xFFFFFFFF) == 0
    assert verdict(machine, "personality", 0) == 0
    assert verdict(machine, "personality", 0x0400000) == errno.EPERM


def test_calls_of_another_machine_end_the_process(machine: str) -> None:
    program = seccomp.program(machine, programs=True, sockets=NETWORK)
    assert run(program, 0x40000003, 0) == KILLED


def test_the_other_numbers_of_x86_64() -> None:
    program = seccomp.program("x86_64", programs=True, sockets=NETWORK)
    result = run(program, ARCHITECTURES["x86_64"], 0x40000000 + 101)
    assert result & 0xFFFF == errno.ENOSYS
