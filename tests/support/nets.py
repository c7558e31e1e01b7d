"""Small networks, each with the channel groups that it must have, written by hand."""

import nets_field as nets_field
import nets_held as nets_held
import nets_layers as nets_layers
import nets_shapes as nets_shapes
import nets_whole as nets_whole
from netcase import CASES as CASES
from netcase import Net as Net
from netcase import conv as conv
from netcase import pooled as pooled
