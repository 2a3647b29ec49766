//! The implementations among which operations choose, and tests' way to force one.

/// The implementation that an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Stock operations of Burn, on any device.
    Composed,
    /// Fused operations on the CPU.
    #[cfg(feature = "cpu")]
    Cpu,
    /// Fused operations on a GPU.
    #[cfg(feature = "gpu")]
    Gpu,
}

/// Forces the choice of kernels, for tests that compare both sides.
#[cfg(test)]
pub(crate) mod forced {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use burn::tensor::Device;

    use crate::model::ops::choice::Kernels;

    thread_local! {
        static FORCED: Cell<Option<Kernels>> = const { Cell::new(None) };
        static RUNS: RefCell<BTreeMap<&'static str, usize>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Runs `work` with all its operations, as far as they are called on this thread, on `kernels`;
    /// returns its result and how often each operation ran.
    ///
    /// # Panics
    /// If an operation is called on tensors that `kernels` do not take.
    pub(crate) fn on<T>(
        kernels: Kernels,
        work: impl FnOnce() -> T,
    ) -> (T, BTreeMap<&'static str, usize>) {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                FORCED.set(None);
            }
        }
        let _reset = Reset;
        FORCED.set(Some(kernels));
        RUNS.take();
        let result = work();
        (result, RUNS.take())
    }

    /// The kernels of a GPU and one to test them on, in builds with the feature `wgpu`.
    ///
    /// # Panics
    /// If there is no driver; lavapipe is one in software.
    #[cfg(feature = "wgpu")]
    pub(crate) fn gpu() -> Option<(Kernels, Device)> {
        let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
        Some((Kernels::Gpu, found.first().expect("a Vulkan driver").clone()))
    }

    /// No GPU.
    #[cfg(not(feature = "wgpu"))]
    pub(crate) fn gpu() -> Option<(Kernels, Device)> {
        None
    }

    /// The forced kernels if there are any, otherwise `chosen`.
    pub(crate) fn instead_of(chosen: Kernels, operation: &'static str) -> Kernels {
        let Some(forced) = FORCED.get() else { return chosen };
        let possible = forced == Kernels::Composed || forced == chosen;
        assert!(possible, "{operation} is forced on {forced:?} but its tensors take {chosen:?}");
        RUNS.with_borrow_mut(|runs| *runs.entry(operation).or_default() += 1);
        forced
    }
}
