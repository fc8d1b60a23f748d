"""``python -m opt`` is the ``tilewright`` command."""

from opt.main import main

main()
