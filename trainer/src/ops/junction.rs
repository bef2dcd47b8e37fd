//! Hand-over of a gradient from a residual sum to the layer norm at the start of the same branch.
//!
//! Tokens that a branch leaves have two gradients, that of the residual sum and that of the norm. Burn adds them in a
//! separate pass, with 12 bytes per value. In the backward pass the norm runs after the sum, so its kernel can add the
//! gradient of the sum for 4 bytes per value; but an operation of Burn has no access to gradients other than that of
//! its result. The sum therefore leaves its gradient in a junction that both share, and the norm collects it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

/// Place where one gradient is stored. A closed junction, the default, stores none.
#[derive(Clone, Default)]
pub struct Junction(Option<Arc<Slot>>);

#[derive(Default)]
struct Slot(Mutex<Option<Box<dyn Any + Send>>>);

impl Junction {
    /// Creates a junction that stores a gradient. The branch of the residual sum must depend on the result of the norm.
    #[must_use]
    pub fn open() -> Self {
        Self(Some(Arc::default()))
    }

    /// Stores the gradient of the residual sum; returns it if the junction is closed.
    pub(super) fn leave<B: Backend>(&self, grad: FloatTensor<B>) -> Option<FloatTensor<B>> {
        let Some(slot) = &self.0 else { return Some(grad) };
        let before = slot.0.lock().unwrap_or_else(PoisonError::into_inner).replace(Box::new(grad));
        assert!(before.is_none(), "a junction serves one residual sum");
        None
    }

    /// Takes the stored gradient.
    pub(super) fn collect<B: Backend>(&self) -> Option<FloatTensor<B>> {
        let grad = self.0.as_ref()?.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(*grad.downcast().expect("norm and residual sum are on one backend"))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let left = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
        // Without this panic, the gradient would silently be wrong.
        assert!(!left || std::thread::panicking(), "a residual sum's branch does not depend on its norm");
    }
}

impl fmt::Debug for Junction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Junction::open" } else { "Junction::closed" })
    }
}
