//! Low-rank adapters: their parameters, initialisation, PEFT files and merging.
