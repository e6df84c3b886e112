//! What is asked on a connection of enrolment besides a certificate.

use super::{Sample, conversation::node, sample};
use proximity_protocol::{
    enquiry::{Enquiry, EnquiryReply},
    leave::{LeaveRefusal, LeaveRefusalReason, LeaveReply, LeaveRequest},
};

pub(super) fn all() -> Vec<Sample> {
    use LeaveRefusalReason::*;
    let leave = LeaveRequest {
        csr_der: vec![0x30, 0x82],
        proof: vec![0x30, 0x45],
    };
    let mut all = vec![
        sample("enquiry.clock", &Enquiry::Clock),
        sample(
            "enquiry_reply.clock",
            &EnquiryReply::Clock {
                unix_ms: 1_700_000_000_000,
            },
        ),
        sample("leave_request", &leave),
        sample("leave_reply.left", &LeaveReply::Left { node: node(), apps: 3 }),
    ];
    all.extend([Malformed, UnknownKey, RateLimited, Internal].map(|reason| {
        let refusal = LeaveRefusal {
            reason,
            message: "what to do".into(),
        };
        sample(format!("leave_reply.refused.{reason:?}"), &LeaveReply::Refused(refusal))
    }));
    all
}
