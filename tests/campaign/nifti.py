"""Files in the format NIfTI-1."""

import struct

CODES = {"uint8": (2, 8), "int16": (4, 16)}


def header(dtype, shape, spacing, signs=(1, 1, 1), origin=(0, 0, 0)):
    """Header of a file of isotropic voxels. `signs` are the directions of its axes in RAS."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, *CODES[dtype])
    struct.pack_into("<4f", head, 76, 1, spacing, spacing, spacing)
    struct.pack_into("<f", head, 108, 352)
    head[123] = 2
    struct.pack_into("<h", head, 254, 1)
    for axis, (sign, start) in enumerate(zip(signs, origin)):
        row = [0, 0, 0, start]
        row[axis] = sign * spacing
        struct.pack_into("<4f", head, 280 + 16 * axis, *row)
    head[344:348] = b"n+1\0"
    return bytes(head)
