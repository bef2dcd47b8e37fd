//! Operations of the models on CPUs, on slices of floats.
