"""The layers of confinement: which of them this machine has (`probe_all`), and which hold a sandbox (`verify`).

What a layer is called, whether an agent may run without it and how to get it stands in `table.LAYERS` alone.
"""

from agentix_kernel.layers.rows import OFF, ON, PARTIAL, Row
from agentix_kernel.layers.table import LAYERS, Layer, lacking, probe_all
from agentix_kernel.layers.verify import Expected, verify

__all__ = ["LAYERS", "OFF", "ON", "PARTIAL", "Expected", "Layer", "Row", "lacking", "probe_all", "verify"]
