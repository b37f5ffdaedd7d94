"""Exit codes of a run: of the console command, of its launcher and of its workers."""

import signal

FAILED = 1
WRONG_INPUT = 2  # refused before it began: nothing was trained
LOST_PEER = 75  # of a worker alone: it ends because another worker has
FRESH_PROCESS = 76  # of a worker alone: the run goes on in new processes
SIGNALLED = 128  # plus the number of the signal
STOPPED = SIGNALLED + signal.SIGINT  # after the step, with a checkpoint, whichever signal asked for it
