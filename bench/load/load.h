/* SPDX-License-Identifier: GPL-2.0-only */
/* What the parts of the load program share. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/socket.h>

#define MAGIC 0x6d6d6362u
#define BATCH 64
#define MAX_BYTES 9216
#define MAX_SOCKETS 10000
#define MAX_ADDRESSES 250
#define CONTROL_BYTES 64 /* room for the source address of one message */

enum stamp_flag { ANSWER = 1, WARM_UP = 2 };

/* What every datagram begins with; what follows is random. */
struct stamp {
	uint32_t magic, run, number, bytes, flags, reserved;
	uint64_t sent_ns;
};

struct options {
	long size, run, cpu, warm_ms, rate, count, ms, sockets, port, addresses, segments;
};

/* The receiver's end: where it binds, where the others send to. */
extern struct sockaddr_storage target;
extern socklen_t target_bytes;
extern char buffers[BATCH][MAX_BYTES];

void die(const char *what) __attribute__((noreturn));
uint64_t now_ns(void);
int open_udp(void);
void stay_on(long cpu);

/* A source is one flow. Every socket, which is a port, has one or as many as addresses. */
static inline long sources_each(const struct options *options)
{
	return options->addresses ? options->addresses : 1;
}

static inline long source_count(const struct options *options)
{
	return options->sockets * sources_each(options);
}

int *open_sources(const struct options *options);
void address_message(struct msghdr *message, char *control, const struct options *options,
		     long source);
long warm_up(const struct options *options, const int *sockets);

int serve(const struct options *options);
int send_load(const struct options *options, const int *sockets);
int ask(const struct options *options, const int *sockets);

#endif
