//! Interrupting a call: an exception is set for the context's thread, with its GIL, until the call is over.

use std::sync::atomic::Ordering;
use std::sync::PoisonError;
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::imports::is_importing;
use crate::python::watch::{now, Callback, Exceptions, Watch, NEVER};

/// An import that has begun may go on for so long, in ns, unless the context is to end.
const IMPORT: u64 = 5_000_000_000;
/// The first pause before a call is interrupted again, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Watch {
    /// Interrupts a call, again and again until it is over.
    pub fn interrupt(&self, number: u64) {
        self.interrupt_while(number, |patient| {
            self.fire(number, patient, self.exception_of_call())
        });
    }

    /// Likewise a task that never waits, of a call that nobody waits for any more: as long as tasks run, and
    /// that is the one which does.
    pub fn interrupt_task(&self, number: u64) {
        self.interrupt_while(number, |patient| {
            self.fire(number, patient, self.exception_of_task())
        });
    }

    fn interrupt_while(&self, number: u64, fire: impl Fn(bool) -> bool) {
        let mut pause = PAUSE;
        let until = now().saturating_add(IMPORT);
        let patient = || self.hurry.load(Ordering::Relaxed) == NEVER && now() < until;
        while self.number.load(Ordering::Acquire) == number && fire(patient()) {
            let asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            // A call that ends between the two is found ended after the pause.
            drop(self.ended.wait_timeout(asleep, pause));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        // Whoever finds it running again, with others within it that have ended, interrupts it again.
        let _ = self
            .cut
            .compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
        let _ = self
            .hunted
            .compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Once; false when there is nothing to interrupt any more. Waits for the GIL. With patience an import goes on.
    fn fire(
        &self,
        number: u64,
        patient: bool,
        exception: impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject>,
    ) -> bool {
        let runs = self.set_exception(number, patient, exception);
        // It may wait for something outside of Python.
        self.inbox.disturb();
        runs
    }

    fn exception_of_call(&self) -> impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject> + '_ {
        |exceptions| match self.what() {
            Callback::Call => Some(exceptions.call),
            _ => Some(exceptions.callback),
        }
    }

    fn exception_of_task(&self) -> impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject> + '_ {
        |exceptions| self.runs_in_vain().then_some(exceptions.call)
    }

    /// True if the task that is running is of a call that nobody waits for any more. With the GIL.
    fn runs_in_vain(&self) -> bool {
        let tasks = self.tasks.load(Ordering::Acquire);
        if tasks.is_null() {
            return false;
        }
        let cuts = self.inbox.cuts();
        let numbers: Vec<_> = cuts.iter().map(|cut| cut.job.number()).collect();
        Python::attach(|py| {
            // SAFETY: it lives as long as it is shown here, which only changes with the GIL.
            let tasks = unsafe { Bound::from_borrowed_ptr(py, tasks) };
            let runs = tasks.call_method1("runs_one_of", (numbers,));
            // What cannot say so is not interrupted.
            runs.and_then(|runs| runs.extract()).unwrap_or(false)
        })
    }

    fn set_exception(
        &self,
        number: u64,
        patient: bool,
        exception: impl FnOnce(&Exceptions) -> Option<*mut ffi::PyObject>,
    ) -> bool {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = &*gate else {
            return false;
        };
        // SAFETY: the gate is open and held, so the interpreter lives; a thread state of this thread's
        // own is made, attached, cleared and deleted in it. With its GIL the call cannot end before the
        // exception is set, and the exception's class is alive.
        unsafe {
            let state = ffi::PyThreadState_New(target.interpreter);
            if state.is_null() {
                return true;
            }
            ffi::PyEval_RestoreThread(state);
            let runs = self.number.load(Ordering::Acquire) == number;
            let spared = runs && patient && is_importing(target.thread);
            let exception = if runs && !spared {
                exception(&target.exceptions)
            } else {
                None
            };
            if let Some(exception) = exception {
                self.interrupts.fetch_add(1, Ordering::Relaxed);
                ffi::PyThreadState_SetAsyncExc(target.thread, exception);
            }
            ffi::PyThreadState_Clear(state);
            ffi::PyThreadState_DeleteCurrent();
            runs
        }
    }
}
