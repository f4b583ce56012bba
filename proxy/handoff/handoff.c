/*
 * Lets a Postgres backend take over its client's socket.
 *
 * Preloaded into a postmaster (LD_PRELOAD), this library stands before recv() in all backends that
 * it forks. A backend reads from the front door over a unix socket. When a Sync message comes with
 * a descriptor attached (SCM_RIGHTS), that descriptor is the client's own socket: it takes the
 * place of the unix socket under the same number, and Postgres goes on reading and writing without
 * having noticed. The front door sees the unix socket close, which is the acknowledgement.
 *
 * Whatever cannot be taken over is passed on: Postgres answers the Sync with ReadyForQuery, as one
 * without this library does, and the front door relays. That is also why the request is a Sync.
 *
 * Rules:
 *   - Only the first socket that a process reads from may be replaced, once: in a backend that is
 *     its client. Sockets of dblink, postgres_fdw and the like are read as ever.
 *   - Nothing is taken over while the front door has not read all that this backend sent: it would
 *     pass that on beside us, and two writers would mix their messages.
 *   - Nothing of Postgres is called or known here but that it waits by epoll, so one library
 *     serves all major versions.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

/* A backend waits for its client in one epoll set, or in a few. */
#define REGISTRATIONS_MAX 8

static const unsigned char SYNC[] = {'S', 0, 0, 0, 4};

/* A place in an epoll set: what to wait for, and the word by which Postgres knows it again. */
struct registration
{
	int			set;
	struct epoll_event event;
};

static ssize_t
system_recv(int fd, void *buffer, size_t length, int flags)
{
	return syscall(SYS_recvfrom, fd, buffer, length, flags, NULL, NULL);
}

/* Reads how `fd` is registered in one epoll set, as proc(5) shows it. */
static bool
registered_in(int set, int fd, struct registration *found)
{
	char		path[64];
	char		line[256];
	bool		is_found = false;
	FILE	   *info;

	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", set);
	info = fopen(path, "re");
	if (info == NULL)
		return false;
	while (!is_found && fgets(line, sizeof line, info) != NULL)
	{
		int			target;
		unsigned int events;
		unsigned long long data;

		if (sscanf(line, "tfd: %d events: %x data: %llx", &target, &events, &data) == 3 &&
			target == fd)
		{
			*found = (struct registration) {.set = set, .event = {.events = events, .data.u64 = data}};
			is_found = true;
		}
	}
	fclose(info);
	return is_found;
}

/* Finds every epoll set of this process that waits for `fd`. Returns how many; -1 if unknown. */
static int
find_registrations(int fd, struct registration *found)
{
	static const char EPOLL[] = "anon_inode:[eventpoll]";
	DIR		   *descriptors = opendir("/proc/self/fd");
	struct dirent *entry;
	int			count = 0;

	if (descriptors == NULL)
		return -1;
	while (count >= 0 && (entry = readdir(descriptors)) != NULL)
	{
		char		target[sizeof EPOLL];
		ssize_t		length = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target);

		if (length != sizeof EPOLL - 1 || memcmp(target, EPOLL, sizeof EPOLL - 1) != 0)
			continue;
		if (count == REGISTRATIONS_MAX)
			count = -1;
		else if (registered_in(atoi(entry->d_name), fd, &found[count]))
			count++;
	}
	closedir(descriptors);
	return count;
}

/* Puts the client's socket in the place of ours. False: all is as it was. */
static bool
take_over(int ours, int clients)
{
	struct registration found[REGISTRATIONS_MAX];
	int			unread;
	int			count;

	if (ioctl(ours, SIOCOUTQ, &unread) != 0 || unread != 0)
		return false;
	/* Without one we do not understand how this process waits, and it might wait for ever. */
	count = find_registrations(ours, found);
	if (count <= 0)
		return false;
	/* Nobody else has our old socket open, so the kernel takes it out of all epoll sets here. */
	if (dup3(clients, ours, O_CLOEXEC) < 0)
		return false;
	for (int i = 0; i < count; i++)
	{
		/* Out of memory: the next read sees the end, and the session ends instead of hanging. */
		if (epoll_ctl(found[i].set, EPOLL_CTL_ADD, ours, &found[i].event) != 0)
			shutdown(ours, SHUT_RDWR);
	}
	return true;
}

/* The one descriptor in a message, or -1. */
static int
descriptor_in(struct msghdr *message)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(message);
	int			fd = -1;

	if (part != NULL && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
		part->cmsg_len == CMSG_LEN(sizeof fd))
		memcpy(&fd, CMSG_DATA(part), sizeof fd);
	return fd;
}

EXPORTED ssize_t
recv(int fd, void *buffer, size_t length, int flags)
{
	static int	client = -1;
	static bool is_settled = false;
	struct iovec part = {.iov_base = buffer, .iov_len = length};
	union
	{
		struct cmsghdr aligned;
		char		bytes[CMSG_SPACE(sizeof(int))];
	}			control;
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control,
	};
	ssize_t		count;
	int			passed;

	if (client < 0)
		client = fd;
	if (is_settled || fd != client)
		return system_recv(fd, buffer, length, flags);
	count = syscall(SYS_recvmsg, fd, &message, flags | MSG_CMSG_CLOEXEC);
	passed = count > 0 ? descriptor_in(&message) : -1;
	if (passed < 0)
		return count;
	is_settled = count == sizeof SYNC && memcmp(buffer, SYNC, sizeof SYNC) == 0 &&
		take_over(fd, passed);
	close(passed);
	return is_settled ? system_recv(fd, buffer, length, flags) : count;
}

/* What a compiler may make of recv() where it knows the size of the buffer. */
EXPORTED ssize_t
__recv_chk(int fd, void *buffer, size_t length, size_t room, int flags)
{
	if (length > room)
		abort();
	return recv(fd, buffer, length, flags);
}

/* Programs that Postgres runs are none of our business. */
__attribute__((constructor)) static void
preload_nothing_else(void)
{
	unsetenv("LD_PRELOAD");
}
