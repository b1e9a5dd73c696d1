//! What only a NIF that Elixir called asks an emulator for: some of it is referred to, none of it is called.
//!
//! The unit tests of the library have these too, and the rest of the emulator in `no_emulator.rs`.

/// Functions that end the process if they are called.
macro_rules! absent {
    ($($name:ident)*) => {
        $(
            #[no_mangle]
            extern "C" fn $name() -> ! {
                eprintln!(concat!(stringify!($name), " was called outside an emulator"));
                std::process::abort()
            }
        )*
    };
}

absent! {
    enif_alloc
    enif_convert_time_unit
    enif_cpu_time
    enif_dlopen
    enif_dlsym
    enif_free
    enif_free_iovec
    enif_get_local_port
    enif_get_string
    enif_getenv
    enif_has_pending_exception
    enif_inspect_iovec
    enif_ioq_create
    enif_ioq_deq
    enif_ioq_destroy
    enif_ioq_enq_binary
    enif_ioq_enqv
    enif_ioq_peek
    enif_ioq_peek_head
    enif_ioq_size
    enif_is_current_process_alive
    enif_is_number
    enif_is_pid_undefined
    enif_is_port_alive
    enif_make_atom
    enif_make_existing_atom
    enif_make_map_remove
    enif_make_map_update
    enif_make_monitor_term
    enif_make_ref
    enif_make_resource_binary
    enif_make_reverse_list
    enif_make_string
    enif_make_string_len
    enif_make_unique_integer
    enif_map_iterator_is_head
    enif_map_iterator_is_tail
    enif_monotonic_time
    enif_now_time
    enif_open_resource_type
    enif_port_command
    enif_priv_data
    enif_realloc
    enif_realloc_binary
    enif_schedule_nif
    enif_select
    enif_select_x
    enif_self
    enif_set_pid_undefined
    enif_sizeof_resource
    enif_system_info
    enif_time_offset
    enif_whereis_port
}
