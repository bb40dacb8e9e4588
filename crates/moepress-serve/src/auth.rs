//! The token that a server may ask for.

use crate::error::ApiError;
use axum::http::{HeaderMap, StatusCode, header};
use moepress_checkpoint::digest_of;

/// Refuses a request without the token; the time that takes says nothing about it.
pub(crate) fn check(token: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(token) = token else { return Ok(()) };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // Digests are of one length and tell nothing of what they are of.
    let [ours, theirs] = [token, given.trim()].map(|text| digest_of(text.as_bytes()));
    let differ = ours.bytes().zip(theirs.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    match differ {
        0 => Ok(()),
        _ => {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "this server wants `Authorization: Bearer <token>`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            value.map(|value| headers.insert(header::AUTHORIZATION, value.parse().unwrap()));
            check(Some("secret"), &headers).map_err(|error| error.status.as_u16())
        };
        assert_eq!(check(Some("Bearer secret")), Ok(()));
        for value in [None, Some("Bearer"), Some("Bearer Secret"), Some("secret"), Some("Bearer secret2")] {
            assert_eq!(check(value), Err(401), "{value:?}");
        }
        assert_eq!(super::check(None, &HeaderMap::new()), Ok(()));
    }
}
