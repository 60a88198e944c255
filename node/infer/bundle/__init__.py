"""MONAI bundles: their networks run inside the warm worker, fed from memory."""
