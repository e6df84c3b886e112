//! The node's own policy file.
