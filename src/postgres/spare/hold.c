/*
 * Holds a program before its main() until it is told as what to run.
 *
 * Preloaded into `postgres` (LD_PRELOAD), this library stands between the dynamic linker and main().
 * It waits on the socket that is its standard input. The one message that comes there says what an
 * exec would have: arguments, environment, directory, account, and a descriptor for output. From
 * then on the process is the one that an exec would have made, without what loading it took.
 *
 * message: words of 32 bits, in the order of the host, then as many strings, each with its zero
 *
 *   word 0    1: take the account of words 1 and 2; 0: stay who we are
 *   word 1    user id
 *   word 2    group id
 *   word 3    number of arguments, the program's name among them
 *   word 4    number of `NAME=value` of the environment
 *   strings   directory, arguments, environment
 *
 * Rules:
 *   - The end of the socket is the end of this process: who made it is gone.
 *   - The arguments take the place of those that the process was executed with, which are made long
 *     for that. There ps(1) finds them, and there Postgres writes what a process is doing.
 *   - Nothing of Postgres is known here.
 *
 * While it waits it has ready what else a start takes longest for: the pages of the code, OpenSSL's
 * random numbers, and the memory that the program will ask for to share with what it forks. How
 * much that is, and what of it such a program uses, says SHARED of the environment, in bytes:
 * `length from-to from-to ...`. Who asks for another length gets memory as ever.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

/* Longer ones are not sent. */
#define MESSAGE_BYTES_MAX 65536

/* What a shell says of a program that it cannot run. */
#define CANNOT_RUN 126

/* Since Linux 5.14; before it each page is made when it is first used. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum {HAS_ACCOUNT, USER, GROUP, ARGUMENTS, VARIABLES, WORDS};

typedef int main_function(int, char **, char **);
typedef int start_function(main_function *, int, char **, void (*) (void), void (*) (void),
						   void (*) (void), void *);

typedef void *map_function(void *, size_t, int, int, int, off_t);
typedef int random_function(unsigned char *, int);

static char message[MESSAGE_BYTES_MAX + 1];

/* Memory made ahead, until it is asked for. */
static char *shared;
static size_t shared_bytes;

static void
fail(const char *step)
{
	fprintf(stderr, "FATAL:  spare process could not %s: %s\n", step, strerror(errno));
	_exit(CANNOT_RUN);
}

static void
share(const char *wanted)
{
	char	   *at;

	if (wanted == NULL)
		return;
	shared_bytes = strtoull(wanted, &at, 10);
	shared = mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		shared = NULL;
	while (shared != NULL && *at == ' ')
	{
		size_t		from = strtoull(at, &at, 10);
		size_t		to = *at == '-' ? strtoull(at + 1, &at, 10) : 0;

		if (from < to && to <= shared_bytes)
			madvise(shared + from, to - from, MADV_POPULATE_WRITE);
	}
}

/* What fails here is done when it is needed. */
static void
make_ready(void)
{
	FILE	   *maps = fopen("/proc/self/maps", "re");
	random_function *random = (random_function *) dlsym(RTLD_DEFAULT, "RAND_bytes");
	unsigned char byte;
	char		line[512];
	size_t		from,
				to;

	while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
	{
		if (sscanf(line, "%zx-%zx r-xp", &from, &to) == 2 && strstr(line, " r-xp ") != NULL)
			madvise((void *) from, to - from, MADV_POPULATE_READ);
	}
	if (maps != NULL)
		fclose(maps);
	if (random != NULL)
		random(&byte, 1);
	share(getenv("SHARED"));
}

/* Waits for the message. Its output goes to this process's from then on. */
static size_t
receive(void)
{
	struct iovec part = {.iov_base = message, .iov_len = MESSAGE_BYTES_MAX};
	union
	{
		struct cmsghdr aligned;
		char		bytes[CMSG_SPACE(sizeof(int))];
	}			control;
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control,
	};
	struct cmsghdr *attached;
	ssize_t		count;
	int			output;

	do
		count = recvmsg(STDIN_FILENO, &header, 0);
	while (count < 0 && errno == EINTR);
	attached = count > 0 ? CMSG_FIRSTHDR(&header) : NULL;
	if (attached == NULL || attached->cmsg_type != SCM_RIGHTS)
		_exit(0);
	memcpy(&output, CMSG_DATA(attached), sizeof output);
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	if (output > STDERR_FILENO)
		close(output);
	errno = EINVAL;
	if (header.msg_flags & MSG_TRUNC || (size_t) count < WORDS * sizeof(uint32_t))
		fail("read its message");
	return (size_t) count;
}

/* The next string of the message. */
static char *
next(char **at, const char *end)
{
	char	   *found = *at;

	errno = EINVAL;
	if (found >= end)
		fail("read its message");
	*at = found + strlen(found) + 1;
	return found;
}

static void
enter(const uint32_t *words, const char *directory)
{
	int			nothing = open("/dev/null", O_RDONLY);

	if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0)
		fail("open /dev/null");
	if (nothing > STDERR_FILENO)
		close(nothing);
	if (chdir(directory) != 0)
		fail("enter its directory");
	/* The order matters: groups need the rights that the user id gives up. */
	if (words[HAS_ACCOUNT] && (setgroups(0, NULL) != 0 ||
							   setresgid(words[GROUP], words[GROUP], words[GROUP]) != 0 ||
							   setresuid(words[USER], words[USER], words[USER]) != 0))
		fail("take its account");
	/* What a change of the account takes away, an exec gives back. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

/* Returns arguments, a null, environment and a null, as the kernel lays them out. */
static char **
become(int *argc, char **argv)
{
	char	   *area = argv[0];
	const char *area_end = argv[*argc - 1] + strlen(argv[*argc - 1]) + 1;
	const char *end = message + receive();
	char	   *at = message + WORDS * sizeof(uint32_t);
	uint32_t	words[WORDS];
	char	  **vector;
	uint32_t	filled = 0;

	memcpy(words, message, sizeof words);
	enter(words, next(&at, end));
	vector = calloc((size_t) words[ARGUMENTS] + words[VARIABLES] + 2, sizeof *vector);
	if (vector == NULL)
		fail("keep its arguments");
	for (; filled < words[ARGUMENTS]; filled++)
	{
		const char *argument = next(&at, end);
		size_t		bytes = strlen(argument) + 1;

		if (bytes > (size_t) (area_end - area))
			fail("keep its arguments");
		vector[filled] = memcpy(area, argument, bytes);
		area += bytes;
	}
	memset(area, 0, (size_t) (area_end - area));
	for (uint32_t variable = 0; variable < words[VARIABLES]; variable++)
		vector[++filled] = next(&at, end);
	*argc = (int) words[ARGUMENTS];
	return vector;
}

static void *
map(const char *name, void *at, size_t bytes, int access, int flags, int file, off_t offset)
{
	map_function *function = (map_function *) dlsym(RTLD_NEXT, name);
	char	   *ready = shared;

	if (ready == NULL || flags != (MAP_SHARED | MAP_ANONYMOUS))
		return function(at, bytes, access, flags, file, offset);
	shared = NULL;
	if (at == NULL && bytes == shared_bytes && access == (PROT_READ | PROT_WRITE))
		return ready;
	munmap(ready, shared_bytes);
	return function(at, bytes, access, flags, file, offset);
}

EXPORTED void *
mmap(void *at, size_t bytes, int access, int flags, int file, off_t offset)
{
	return map("mmap", at, bytes, access, flags, file, offset);
}

EXPORTED void *
mmap64(void *at, size_t bytes, int access, int flags, int file, off64_t offset)
{
	return map("mmap64", at, bytes, access, flags, file, offset);
}

EXPORTED int
__libc_start_main(main_function *entry, int argc, char **argv, void (*init) (void),
				  void (*fini) (void), void (*unload) (void), void *stack_end)
{
	start_function *start = (start_function *) dlsym(RTLD_NEXT, "__libc_start_main");

	make_ready();
	argv = become(&argc, argv);
	environ = argv + argc + 1;
	return start(entry, argc, argv, init, fini, unload, stack_end);
}
