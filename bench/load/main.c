// SPDX-License-Identifier: GPL-2.0-only
/*
 * The load of the benchmarks: sends, answers, counts UDP datagrams. Both ends run on one machine,
 * so that one clock (CLOCK_MONOTONIC) stamps and reads.
 *
 *   load serve ADDRESS PORT [cpu=N]      count and answer; "begin RUN" and "tell" on stdin
 *   load send  ADDRESS PORT [KEY=N...]   as fast as it goes, or rate=, for ms= or count=
 *   load ask   ADDRESS PORT [KEY=N...]   one datagram under way at a time, timed
 *
 *   size= bytes of payload     run= number that the receiver counts     cpu= to stay on
 *   warm_ms= how long to wait for an answer on every source at first; 0: send at once
 *   sockets= how many, by turns; port= the first one's, 0: any
 *   addresses= sources of each socket, 203.0.113.1 and following (IPv4); 0: connect it instead
 *   segments= datagrams in one UDP_SEGMENT buffer; 1: none of those
 *
 * Each command prints one line of JSON. Exit code: 0 measured, 1 failed, 2 bad usage, 3 no answer.
 */
#include "load.h"

#include <errno.h>
#include <netdb.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define BUFFER_BYTES (4 << 20)

struct sockaddr_storage target;
socklen_t target_bytes;
char buffers[BATCH][MAX_BYTES];

void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

int open_udp(void)
{
	int bytes = BUFFER_BYTES, udp = socket(target.ss_family, SOCK_DGRAM, 0);

	if (udp < 0)
		die("socket");
	if (setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		die("SO_RCVBUFFORCE");
	return udp;
}

/* This thread alone: those that were started before go where they like. */
void stay_on(long cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void resolve(const char *address, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM,
				 .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	struct addrinfo *found;
	int error = getaddrinfo(address, port, &hints, &found);

	if (error) {
		fprintf(stderr, "load: %s port %s: %s\n", address, port, gai_strerror(error));
		exit(2);
	}
	memcpy(&target, found->ai_addr, found->ai_addrlen);
	target_bytes = found->ai_addrlen;
	freeaddrinfo(found);
}

static int read_option(struct options *options, const char *text)
{
	struct {
		const char *name;
		long *value;
	} known[] = {{"size", &options->size},	     {"run", &options->run},
		     {"cpu", &options->cpu},	     {"warm_ms", &options->warm_ms},
		     {"rate", &options->rate},	     {"count", &options->count},
		     {"ms", &options->ms},	     {"sockets", &options->sockets},
		     {"port", &options->port},	     {"addresses", &options->addresses},
		     {"segments", &options->segments}};
	const char *equals = strchr(text, '=');

	for (unsigned i = 0; equals && i < sizeof(known) / sizeof(*known); i++) {
		if (strlen(known[i].name) == (size_t)(equals - text) &&
		    !memcmp(known[i].name, text, equals - text)) {
			*known[i].value = atol(equals + 1);
			return 1;
		}
	}
	return 0;
}

static int is_sane(const struct options *options)
{
	return options->size >= (long)sizeof(struct stamp) && options->size <= MAX_BYTES &&
	       options->sockets >= 1 && options->sockets <= MAX_SOCKETS &&
	       options->addresses >= 0 && options->addresses <= MAX_ADDRESSES &&
	       options->segments >= 1 && options->segments <= BATCH &&
	       (options->count > 0 || options->ms > 0);
}

int main(int argc, char **argv)
{
	struct options options = {
		.size = 64, .cpu = -1, .sockets = 1, .segments = 1};
	int *sockets;

	for (int i = 4; i < argc; i++) {
		if (!read_option(&options, argv[i])) {
			fprintf(stderr, "load: %s is no option\n", argv[i]);
			return 2;
		}
	}
	if (argc < 4)
		goto usage;
	resolve(argv[2], argv[3]);
	if (!strcmp(argv[1], "serve"))
		return serve(&options);
	if (!is_sane(&options))
		goto usage;
	for (int i = 0; i < BATCH; i++)
		for (int at = sizeof(struct stamp); at < options.size; at++)
			buffers[i][at] = rand();
	stay_on(options.cpu);
	prctl(PR_SET_TIMERSLACK, 1);
	sockets = open_sources(&options);
	if (options.warm_ms) {
		long silent = warm_up(&options, sockets);

		if (silent) {
			fprintf(stderr, "load: no answer to %ld of %ld sources\n", silent,
				source_count(&options));
			return 3;
		}
	}
	if (!strcmp(argv[1], "send"))
		return send_load(&options, sockets);
	if (!strcmp(argv[1], "ask") && options.count > 0)
		return ask(&options, sockets);
usage:
	fprintf(stderr, "usage: load serve|send|ask ADDRESS PORT [KEY=NUMBER...]\n");
	return 2;
}
