//! Crashes at every system call of the store.

