//! The QUIC listener, enrolment, and the links of connected agents.
