//! Devices that run the operations.
