//! Memory for results, which are written as a whole before they are read.

#![allow(unsafe_code, reason = "memory whose content is not specified")]

/// Numbers of unspecified content, for a kernel that writes all of them.
///
/// Zeros would be written by one thread while the others wait, often for as long as the kernel takes. In builds with
/// debug assertions all are NaN, so that a test sees what a kernel has left out.
pub fn unspecified(len: usize) -> Vec<f32> {
    if cfg!(debug_assertions) {
        return vec![f32::NAN; len];
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut values: Vec<f32> = Vec::with_capacity(len);
        // SAFETY: the vector has memory for `len` numbers, and every pattern of bits is a number. The assembly is
        // empty, but as the compiler sees it, it gets the address and may write all of them.
        #[allow(clippy::uninit_vec, reason = "the assembly writes it, as the compiler sees it")]
        unsafe {
            std::arch::asm!("/* {0} */", in(reg) values.as_mut_ptr(), options(nostack, preserves_flags));
            values.set_len(len);
        }
        values
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    vec![0.0; len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for len in [0, 1, 1000, 1 << 20] {
            let mut values = unspecified(len);
            assert!(
                values.len() == len
                    && (!cfg!(debug_assertions) || values.iter().all(|v| v.is_nan()))
            );
            values.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32);
            assert!(values.iter().enumerate().all(|(at, value)| *value == at as f32));
        }
    }
}
