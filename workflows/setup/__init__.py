"""The environment that everything runs in, and the doctor that examines this machine."""
