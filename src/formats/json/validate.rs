//! Validation of JSON text (RFC 8259) in one pass, without recursion and without building anything.
//!
//! Two things that the grammar allows are refused, because everybody in a session gets the text and many cannot decode
//! them: a number beyond 64-bit floats, and half of a surrogate pair.
//!
//! Every payload passes through here on the session's task, so it is written for speed: measured at about a quarter of
//! the instructions of a flat scan for nesting followed by a general parser. The tests hold it to that parser.

/// What is wrong, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not JSON; what was expected, at this byte.
    Syntax(&'static str, usize),
    /// Nested more deeply than allowed.
    TooDeep,
}

/// Nesting that the bit stack below can hold.
const DEPTH_MAX: usize = 128;

/// Without a positive exponent, no number this long is beyond 64-bit floats.
const DIGITS_FINITE: usize = 300;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// One bit per open bracket, the innermost lowest: 1 = object.
    objects: u128,
    depth: usize,
    max: usize,
    /// Whether [`Self::next_byte`] found one the last time.
    taken: bool,
}

/// Checks UTF-8 text. `max` is the nesting allowed (a number has 0, `[]` has 1), at most 128.
pub(super) fn validate(text: &str, max: usize) -> Result<(), Fault> {
    let mut scanner =
        Scanner { text: text.as_bytes(), at: 0, objects: 0, depth: 0, max: max.min(DEPTH_MAX), taken: false };
    scanner.document()
}

/// Begins the keys by which the parser, here and in other people's programs, passes itself messages: an object that has
/// one is read as something else than it says.
const RESERVED: &str = "$serde_json::private::";

/// Whether a key, as it is written between its quotes, is one of those.
fn is_reserved(key: &[u8]) -> bool {
    if !key.contains(&b'\\') {
        return key.starts_with(RESERVED.as_bytes());
    }
    let quoted = [b"\"", key, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|key| key.starts_with(RESERVED))
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), Fault> {
        loop {
            // A value is expected here. An opened bracket that is not closed at once expects another one.
            if self.open_or_scalar()? {
                continue;
            }
            // A value has ended: close what it ends, or go on to the next one.
            loop {
                self.skip_space();
                if self.depth == 0 {
                    return if self.at == self.text.len() { Ok(()) } else { self.fault("the end") };
                }
                let in_object = self.objects & 1 == 1;
                match self.next_byte() {
                    Some(b',') => {
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => self.close(),
                    Some(b']') if !in_object => self.close(),
                    _ => return self.fault_before("a comma or a closing bracket"),
                }
            }
        }
    }

    /// Reads one scalar, an empty container, or an opening bracket; `true` = a value must follow.
    fn open_or_scalar(&mut self) -> Result<bool, Fault> {
        self.skip_space();
        match self.next_byte() {
            Some(b'{') => {
                self.open(true)?;
                self.skip_space();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    self.close();
                    return Ok(false);
                }
                self.key()?;
                Ok(true)
            }
            Some(b'[') => {
                self.open(false)?;
                self.skip_space();
                if self.peek() == Some(b']') {
                    self.at += 1;
                    self.close();
                    return Ok(false);
                }
                Ok(true)
            }
            Some(b'"') => self.string().map(|()| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word(b"rue").map(|()| false),
            Some(b'f') => self.word(b"alse").map(|()| false),
            Some(b'n') => self.word(b"ull").map(|()| false),
            _ => self.fault_before("a value"),
        }
    }

    fn open(&mut self, object: bool) -> Result<(), Fault> {
        if self.depth >= self.max {
            return Err(Fault::TooDeep);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn key(&mut self) -> Result<(), Fault> {
        self.skip_space();
        if self.next_byte() != Some(b'"') {
            return self.fault_before("a key");
        }
        let begin = self.at;
        self.string()?;
        let key = &self.text[begin..self.at - 1];
        if matches!(key.first(), Some(b'$' | b'\\')) && is_reserved(key) {
            return self.fault("another key before");
        }
        self.skip_space();
        if self.next_byte() == Some(b':') { Ok(()) } else { self.fault_before("a colon") }
    }

    /// The rest of a string after its opening quote.
    fn string(&mut self) -> Result<(), Fault> {
        loop {
            let rest = &self.text[self.at..];
            let Some(plain) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) else {
                return self.fault("a closing quote");
            };
            self.at += plain + 1;
            match rest[plain] {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                _ => return self.fault_before("no control character in a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.next_byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => match self.code_unit()? {
                0xd800..=0xdbff => {
                    let pair = self.text[self.at..].starts_with(b"\\u");
                    self.at += if pair { 2 } else { 0 };
                    let low = pair && matches!(self.code_unit()?, 0xdc00..=0xdfff);
                    if low { Ok(()) } else { self.fault("the second half of a surrogate pair") }
                }
                0xdc00..=0xdfff => self.fault("the first half of a surrogate pair before"),
                _ => Ok(()),
            },
            _ => self.fault_before("an escape"),
        }
    }

    /// The four hexadecimal digits of an escape.
    fn code_unit(&mut self) -> Result<u32, Fault> {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
        let value = digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?));
        match value.filter(|_| !digits.is_empty()) {
            Some(value) => {
                self.at += 4;
                Ok(value)
            }
            None => self.fault("four hexadecimal digits"),
        }
    }

    /// The rest of a number after its first character.
    fn number(&mut self) -> Result<(), Fault> {
        let begin = self.at - 1;
        let mut large = false;
        let mut first = self.text[begin];
        if first == b'-' {
            match self.next_byte() {
                Some(digit @ b'0'..=b'9') => first = digit,
                _ => return self.fault_before("a digit"),
            }
        }
        if first == b'0' {
            if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return self.fault("no digit after a leading zero");
            }
        } else {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let sign = self.peek().filter(|byte| matches!(byte, b'+' | b'-'));
            self.at += usize::from(sign.is_some());
            self.some_digits()?;
            large = sign != Some(b'-');
        }
        if large || self.at - begin > DIGITS_FINITE { self.finite(begin) } else { Ok(()) }
    }

    /// Whether a 64-bit float holds the number that has just been read.
    fn finite(&self, begin: usize) -> Result<(), Fault> {
        let text = std::str::from_utf8(&self.text[begin..self.at]);
        let number = text.ok().and_then(|text| text.parse::<f64>().ok());
        if number.is_some_and(f64::is_finite) { Ok(()) } else { self.fault("a number within 64-bit floats before") }
    }

    fn some_digits(&mut self) -> Result<(), Fault> {
        if self.digits() > 0 { Ok(()) } else { self.fault("a digit") }
    }

    fn digits(&mut self) -> usize {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn word(&mut self, rest: &[u8]) -> Result<(), Fault> {
        if self.text[self.at..].starts_with(rest) {
            self.at += rest.len();
            return Ok(());
        }
        self.fault_before("a value")
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.taken = byte.is_some();
        self.at += usize::from(self.taken);
        byte
    }

    fn fault<T>(&self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault::Syntax(expected, self.at))
    }

    /// As [`Self::fault`], about the character just taken.
    fn fault_before<T>(&self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault::Syntax(expected, self.at - usize::from(self.taken)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn accepted_by_the_parser(text: &str) -> bool {
        serde_json::from_str::<Value>(text).is_ok()
    }

    #[test]
    fn what_not_everybody_can_decode_is_refused() {
        let nines = |count: usize| "9".repeat(count);
        for text in ["\"\\ud83d\\ude00\"", "\"\\\\ud800\"", "1e308", "1e-999", "\"1e999\"", &nines(308)] {
            assert_eq!(validate(text, 3), Ok(()), "{text}");
            assert!(accepted_by_the_parser(text), "{text}");
        }
        let half =
            ["\"\\ud800\"", "[\"\\udc00\"]", "{\"\\ud83d\":1}", "\"\\ud83dx\"", "\"\\ud83d\\u0041\"", "\"\\ud83d\\n\""];
        let large = ["1e309", "[-1E+999]", "1e0999", "10e308"];
        for text in half.into_iter().chain(large).map(str::to_owned).chain([nines(310), format!("[{}.5]", nines(400))])
        {
            assert!(matches!(validate(&text, 3), Err(Fault::Syntax(..))), "{text}");
            assert!(!accepted_by_the_parser(&text), "{text}");
        }
    }

    #[test]
    fn the_grammar_is_that_of_the_standard() {
        for (text, good) in [
            ("null", true),
            (" [ 1 , -0.5e+3 , \"a\\u00e4\\n\" , { } , [ ] , {\"a\":{\"b\":[true,false]}} ] ", true),
            ("", false),
            ("01", false),
            ("-", false),
            ("1.", false),
            ("1e", false),
            ("[1,]", false),
            ("{\"a\":1,}", false),
            ("{a:1}", false),
            ("{\"a\" 1}", false),
            ("[1}", false),
            ("{\"a\":1]", false),
            ("\"\t\"", false),
            ("\"\\x\"", false),
            ("\"\\u12g4\"", false),
            ("\"open", false),
            ("nul", false),
            ("1 2", false),
            ("]", false),
        ] {
            assert_eq!(validate(text, 8).is_ok(), good, "{text}");
            assert_eq!(accepted_by_the_parser(text), good, "{text}");
        }
    }

    #[test]
    fn keys_that_mean_something_to_the_parser_are_refused() {
        for text in [
            "{\"$serde_json::private::RawValue\":\"1\"}",
            "[{\"a\":{\"\\u0024serde_json::private::RawValue\":\"[]\"}}]",
        ] {
            assert!(matches!(validate(text, 8), Err(Fault::Syntax(..))), "{text}");
        }
        for text in ["{\"$serde\":\"$serde_json::private::RawValue\"}", "{\"\\u0024\":1}"] {
            assert_eq!(validate(text, 8), Ok(()), "{text}");
        }
    }

    #[test]
    fn nesting_is_limited_exactly() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert_eq!(validate(&nested(64), 64), Ok(()));
        assert_eq!(validate(&nested(65), 64), Err(Fault::TooDeep));
        assert_eq!(validate(&nested(128), usize::MAX), Ok(()));
        assert_eq!(validate(&nested(129), usize::MAX), Err(Fault::TooDeep));
        assert_eq!(validate(&"[".repeat(1_000_000), usize::MAX), Err(Fault::TooDeep));
    }

    proptest! {
        #[test]
        fn it_accepts_what_the_parser_accepts(text in r#"[\[\]{},:"\\a-fu0-9.eE+\- tnrlsx\n]{0,24}"#) {
            prop_assert_eq!(validate(&text, 100).is_ok(), accepted_by_the_parser(&text), "{}", text);
        }

        #[test]
        fn escapes_and_numbers_are_judged_like_the_parser_does(
            text in r#"("(\\u[dD][89abcdABCD][0-9a-f]{2}|\\n|x){0,4}"|-?[1-9]{1,3}[eE][+\-]?[23][0-9]{2})"#,
        ) {
            prop_assert_eq!(validate(&text, 100).is_ok(), accepted_by_the_parser(&text), "{}", text);
        }

        #[test]
        fn a_damaged_document_is_judged_like_the_parser_does(at in 0usize..60, byte in 0u8..127) {
            let mut text = br#"{"a":[1,-2.5e3,"x\u00e4",{"b":null}],"c":true,"d":[[],{}]}"#.to_vec();
            let at = at % text.len();
            text[at] = byte;
            let text = String::from_utf8(text).expect("ASCII");
            prop_assert_eq!(validate(&text, 100).is_ok(), accepted_by_the_parser(&text), "{}", text);
        }
    }
}
