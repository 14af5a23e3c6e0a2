"""The step between fork and exec of a child process: tie its life to its parent's, then become the command.

Run as a script by `runtime.launch`, with the standard library only, so that it costs about 20 ms:

    python -I -S _die_with_parent.py PARENT_PID -- COMMAND ARGUMENT...

It is a script and not a `preexec_fn`, because Python code between fork and exec deadlocks in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, command = int(sys.argv[1]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        # The parent died before the signal was asked for: it will never be sent.
        os._exit(0)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        os._exit(127)


if __name__ == "__main__":
    main()
