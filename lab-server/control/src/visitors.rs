//! Who opened a page in a browser with the token in its address: the browser gets a cookie, and may
//! look from then on. It may not command: for that the page itself has the token.
//!
//! Must not know: what is looked at.

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::token::{Token, TokenError};

/// Those who were let in.
#[derive(Debug)]
pub(crate) struct Visitors {
    /// The name of the cookie. Browsers keep those of all ports of a machine together.
    cookie: String,
    /// What it says. Not the token, since other programs of this machine are sent it, too.
    pass: Token,
}

impl Visitors {
    /// Of a page at a port.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub(crate) fn new(port: u16) -> Result<Self, TokenError> {
        Ok(Self { cookie: format!("lab-look-{port}"), pass: Token::new()? })
    }

    /// Lets a browser in that has the token, and has it ask again without: addresses are kept and
    /// shown. Behind the `#` the token stays in the browser; the page takes it from there.
    pub(crate) fn welcome(&self, path: &str, token: &Token) -> Response {
        let pass = self.pass.secret();
        let cookie = format!("{}={pass}; Path=/; HttpOnly; SameSite=Strict", self.cookie);
        let headers = [
            (header::LOCATION, format!("{path}#token={}", token.secret())),
            (header::SET_COOKIE, cookie),
            (header::CACHE_CONTROL, "no-store".to_owned()),
            (header::REFERRER_POLICY, "no-referrer".to_owned()),
        ];
        (StatusCode::SEE_OTHER, headers).into_response()
    }

    /// Whether a browser was let in before.
    pub(crate) fn knows(&self, headers: &HeaderMap) -> bool {
        let texts = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
        let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|it| it.split_once('='));
        pairs.any(|(name, pass)| name.trim() == self.cookie && self.pass.is(pass.trim()))
    }
}

/// The token in an address, if there is one.
pub(crate) fn token_of(address: &Uri) -> Option<&str> {
    address.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))
}
