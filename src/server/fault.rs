//! What is wrong with a request, before an interface gives it its shape.

use crate::{Error, subject};
use std::fmt::Display;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What kind of fault.
    pub(super) kind: Kind,
    /// In one line: the thing, its value and the limit.
    pub(super) message: String,
    /// The field of the request, if it is one's.
    pub(super) field: Option<String>,
}

/// Kinds of faults, by who can do what about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request makes no sense, or asks for what there is not.
    Invalid,
    /// The context is too short for it.
    TooLong,
    /// There is no key, or a wrong one.
    Key,
    /// It came by a name that is not this machine's own.
    Host,
    /// There is nothing at this path, or no such model.
    NotFound,
    /// The path takes another method.
    Method,
    /// The body took too long to come.
    SlowBody,
    /// The body is too large.
    TooLarge,
    /// The body is of a type that is not read.
    MediaType,
    /// Too many requests wait.
    Busy,
    /// The bodies of other requests have all the memory that there is for them.
    Crowded,
    /// The fault is this program's, or the GPU's.
    Broken,
    /// The server stops.
    Stopping,
    /// The answer took longer than it may.
    TimedOut,
}

impl Kind {
    /// The status of HTTP.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Invalid | Self::TooLong => 400,
            Self::Key => 401,
            Self::Host => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::SlowBody => 408,
            Self::TooLarge => 413,
            Self::MediaType => 415,
            Self::Busy => 429,
            Self::Broken => 500,
            Self::Crowded | Self::Stopping => 503,
            Self::TimedOut => 504,
        }
    }
}

impl Fault {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None }
    }

    /// A field whose value is not allowed.
    pub(super) fn field(field: impl Into<String>, value: impl Display, limit: &str) -> Self {
        let field = field.into();
        let message = format!("{field} is {value}, but {limit}");
        Self { kind: Kind::Invalid, message, field: Some(field) }
    }

    /// What ended an answer that was begun: a model or a grammar that breaks then is no fault of the request.
    pub(super) fn of_answer(error: Error) -> Self {
        match error {
            Error::Model(message) => Self::new(Kind::Broken, message),
            error => error.into(),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Argument { what, .. } if what == subject::CONVERSATION => Kind::TooLong,
            Error::Argument { .. } | Error::Model(_) => Kind::Invalid,
            Error::Busy(_) => Kind::Busy,
            _ => Kind::Broken,
        };
        Self::new(kind, error.to_string())
    }
}

/// The result of reading a request.
pub(super) type Read<T> = std::result::Result<T, Fault>;

#[cfg(test)]
mod tests {
    use super::super::{anthropic, openai};
    use super::*;

    #[test]
    fn what_breaks_in_mid_answer_is_the_servers_fault_and_what_a_template_refuses_is_not() {
        let model = || Error::Model("no token can be chosen".into());
        let fault = Fault::of_answer(model());
        assert_eq!((fault.kind.status(), Fault::from(model()).kind.status()), (500, 400));
        assert_eq!(openai::error(&fault)["error"]["type"], "server_error");
        assert_eq!(anthropic::error(&fault)["error"]["type"], "api_error");
        let long = || Error::argument("the prompt", "9 tokens", "the cache has too few blocks");
        assert_eq!(Fault::of_answer(long()).kind, Kind::Invalid);
        assert_eq!(Fault::of_answer(Error::Gpu("x".into())).kind, Kind::Broken);
    }

    #[test]
    fn who_finds_no_room_is_told_so_in_each_interfaces_words() {
        let fault = Fault::new(Kind::Crowded, "x");
        assert_eq!(fault.kind.status(), 503);
        assert_eq!(openai::error(&fault)["error"]["type"], "server_error");
        assert_eq!(anthropic::error(&fault)["error"]["type"], "overloaded_error");
    }
}
