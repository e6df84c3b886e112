//! Root-only records of what is ours.
