"""`app` for ASGI servers (`uvicorn server:app`), and the commands (`python server.py serve`)."""

import sys

from proxy.cli import main

if __name__ == "__main__":
    main()
elif __name__ != "__mp_main__":  # which is this file in a worker of `serve --workers`
    # A plain attribute: hypercorn looks into the module's dictionary, and finds nothing else.
    from proxy.app import hosted
    from proxy.core.settings import BadSetting

    try:
        app = hosted()
    except BadSetting as error:
        sys.exit(str(error))
