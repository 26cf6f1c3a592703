"""What every room may use: errors, files, parallel work, downloads, the choice of a device, command-line manners."""

import os

# ONNX Runtime (from 1.31 on) reports its use to Microsoft and keeps an identifier of the machine below the home folder,
# from its import on. Nothing about photos may leave a machine by way of this project; who wants it sets 0 beforehand.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
