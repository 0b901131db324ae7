"""Reads and writes files and objects, on this machine and on Beam's filesystems."""
