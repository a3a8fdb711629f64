"""The name under which the project is installed; its folders keep theirs.

In a wheel `alignment`, `tasks`, `flows` and `deployments` lie inside this package, so that
site-packages gets one name of ours. Importing it makes them importable, here and in every process
that this one starts. In a checkout they lie beside it and are found as usual.
"""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).parent

if (_HERE / "flows").is_dir():
    sys.path.insert(0, str(_HERE))
    _paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_HERE) not in _paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_HERE), *filter(None, _paths)])
