//! The operations of the encoder and of its losses: one folder each, one form per device.
