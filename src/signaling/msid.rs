//! How ids stand in `a=msid` (RFC 8830): a stream is the publishing peer, a track is its track.
//!
//! `msid` takes SDP token characters only, ids take any printable text. What is not a token character
//! is percent-encoded as UTF-8, and so is `%` itself: `decodeURIComponent` restores every id.

/// An id as an SDP token.
#[must_use]
pub fn encode(id: &str) -> String {
    let mut token = String::with_capacity(id.len());
    for byte in id.bytes() {
        if is_token(byte) && byte != b'%' {
            token.push(char::from(byte));
        } else {
            token.push('%');
            token.push(char::from(HEX[usize::from(byte >> 4)]));
            token.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    token
}

/// Whether `byte` is a `token-char` (RFC 8866 §9).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&byte)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    /// What `decodeURIComponent` does.
    fn decode(token: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = token.as_bytes();
        while let [first, tail @ ..] = rest {
            if *first == b'%' {
                let hex = std::str::from_utf8(&tail[..2]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &tail[2..];
            } else {
                bytes.push(*first);
                rest = tail;
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn tokens_stay_and_the_rest_is_encoded() {
        let cases = [
            ("9e60b1ce-a5b8-4ce1", "9e60b1ce-a5b8-4ce1"),
            ("{7f3a}", "{7f3a}"),
            ("a b", "a%20b"),
            ("50%", "50%25"),
            ("Zoë", "Zo%C3%AB"),
            ("a:b/c", "a%3Ab%2Fc"),
        ];
        for (id, token) in cases {
            assert_eq!(encode(id), token);
            assert_eq!(decode(token), id);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_id_comes_back(id in "\\PC{1,32}") {
            let token = encode(&id);
            proptest::prop_assert!(token.bytes().all(is_token));
            proptest::prop_assert_eq!(decode(&token), id);
        }
    }
}
