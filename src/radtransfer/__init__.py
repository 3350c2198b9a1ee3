"""radtransfer: does in-domain transfer learning and feature fusion help on your medical images?"""

__version__ = "0.1.0"
