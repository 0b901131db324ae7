"""Files and objects, on this machine and on Beam's filesystems."""
