//! A disk that writes down every system call, and images of what a crash could leave of them.

