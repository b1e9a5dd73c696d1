//! Native objects, which end when nobody knows them any more.

use std::alloc::{alloc, dealloc, Layout};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustler::sys::ErlNifResourceTypeInit;

use crate::emulator::{enif_alloc_env, enif_free_env, give, heap, Env, NO};
use crate::heap::{look, Node, Term, Word};

/// What stands in front of an object: how many know it, and how it ends.
#[repr(C, align(16))]
struct Header {
    count: AtomicUsize,
    size: usize,
    kind: *const Kind,
}

/// A kind of objects.
pub struct Kind {
    end: Option<unsafe extern "C" fn(Env, *mut c_void)>,
}

fn layout(size: usize) -> Layout {
    let size = size_of::<Header>() + size;
    Layout::from_size_align(size, align_of::<Header>()).unwrap_or(Layout::new::<Header>())
}

unsafe fn header(object: *const c_void) -> *mut Header {
    // SAFETY: each object was made behind a header.
    unsafe { object.cast::<Header>().cast_mut().sub(1) }
}

functions! {
    fn enif_open_resource_type_x(_env: Env, _name: *const c_char, init: *const ErlNifResourceTypeInit, _flags: c_int, _tried: *mut c_int) -> *const Kind {
        let end = (*init).dtor;
        // SAFETY: a function, declared as a pointer to one, which may be null.
        let end = std::mem::transmute::<*const _, Option<unsafe extern "C" fn(Env, *mut c_void)>>(end);
        Box::leak(Box::new(Kind { end }))
    }

    fn enif_alloc_resource(kind: *const Kind, size: usize) -> *mut c_void {
        let made = alloc(layout(size)).cast::<Header>();
        if made.is_null() {
            std::alloc::handle_alloc_error(layout(size));
        }
        made.write(Header { count: AtomicUsize::new(1), size, kind });
        made.add(1).cast()
    }

    fn enif_keep_resource(object: *const c_void) {
        (*header(object)).count.fetch_add(1, Ordering::Relaxed);
    }

    fn enif_release_resource(object: *const c_void) {
        let header = header(object);
        if (*header).count.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Some(end) = (*(*header).kind).end {
            let env = enif_alloc_env();
            end(env, object.cast_mut());
            enif_free_env(env);
        }
        dealloc(header.cast(), layout((*header).size));
    }

    /// A term that does not keep it: nobody at the other end could give it back.
    fn enif_make_resource(env: Env, object: *const c_void) -> Word {
        heap(env).add(Node::Resource(object as usize))
    }

    fn enif_get_resource(_env: Env, term: Word, kind: *const Kind, to: *mut *const c_void) -> c_int {
        match look(term) {
            Term::Node(Node::Resource(object)) => {
                let object = *object as *const c_void;
                if (*header(object)).kind == kind { give(to, object) } else { NO }
            }
            _ => NO,
        }
    }
}
