//! Base62: digits `0-9A-Za-z` in this order of value, big-endian, left-padded with `0` (keys.md §1.4).

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes `bytes` as a number of exactly `width` digits; the caller picks a width that every value fits.
pub(crate) fn encode(bytes: &[u8], width: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    zeroize::Zeroize::zeroize(&mut number);
    digits.iter().map(|&digit| char::from(digit)).collect()
}

/// Reads digits into `N` bytes; `None` for a foreign character or a number that does not fit.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut number = [0; N];
    for character in text.bytes() {
        let mut carry = DIGITS.iter().position(|&digit| digit == character)? as u32;
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 62 + carry;
            *byte = value as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

/// Returns true when every character is a digit.
pub(crate) fn is_digits(text: &str) -> bool {
    text.bytes().all(|character| DIGITS.contains(&character))
}
