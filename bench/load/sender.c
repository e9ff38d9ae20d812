// SPDX-License-Identifier: GPL-2.0-only
/* Sends at a rate or as fast as it goes, or asks and waits; measures what the machine did. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_US 120000
#define PATIENCE_US 300000

/* Time in which a CPU had no work, and what the hypervisor took, of all CPUs (proc(5)). */
static double free_s(void)
{
	unsigned long user, nice, system, idle, iowait, irq, softirq, steal;
	FILE *stat = fopen("/proc/stat", "r");

	if (!stat || fscanf(stat, "cpu %lu %lu %lu %lu %lu %lu %lu %lu", &user, &nice, &system,
			    &idle, &iowait, &irq, &softirq, &steal) != 8)
		die("/proc/stat");
	fclose(stat);
	return (double)(idle + iowait + steal) / sysconf(_SC_CLK_TCK);
}

/* Processor time of this thread, with the interrupts that ran on it (where the kernel does not
 * tell them apart). */
static double own_s(void)
{
	struct timespec used;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return used.tv_sec + used.tv_nsec / 1e9;
}

/* Between two bursts; the jitter keeps them out of step with the kernel's tick. */
static void nap(void)
{
	struct timespec pause = {0, 300000 + rand() % 400000};

	clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, 0);
}

/*
 * Send `count` datagrams in one call, numbered from `number`, from the sources of one socket in
 * their order, whose first is `source`. Returns how many were taken, or -1.
 */
static long send_batch(const struct options *options, const int *sockets, long source,
		       uint32_t number, long count)
{
	static char control[BATCH][CONTROL_BYTES] __attribute__((aligned(8)));
	struct mmsghdr messages[BATCH];
	struct iovec vectors[BATCH];
	long each = options->segments, whole = (count + each - 1) / each;

	for (long i = 0; i < count; i++) {
		struct stamp stamp = {MAGIC, options->run, number + i, options->size, 0, 0,
				      now_ns()};

		memcpy(buffers[i], &stamp, sizeof(stamp));
		vectors[i] = (struct iovec){buffers[i], options->size};
	}
	for (long i = 0; i < whole; i++) {
		long left = count - i * each;

		messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i * each],
						      .msg_iovlen = left < each ? left : each};
		address_message(&messages[i].msg_hdr, control[i], options, source + i);
	}
	long sent = sendmmsg(sockets[source / sources_each(options)], messages, whole, 0);

	return sent < whole && sent > 0 ? sent * each : sent < 0 ? -1 : count;
}

/* What one call sends: whole superpackets, and where there are many sources each of them once. */
static long largest_batch(const struct options *options)
{
	if (options->sockets > 1)
		return sources_each(options) < BATCH ? sources_each(options) : BATCH;
	return BATCH / options->segments * options->segments;
}

int send_load(const struct options *options, const int *sockets)
{
	long batch = largest_batch(options), number = 0, refused = 0, source = 0;
	const char *refusal = "";
	double free_before_s = free_s(), own_before_s = own_s();
	uint64_t start_ns = now_ns(), now;
	uint64_t end_ns = options->ms ? start_ns + options->ms * 1000000ull : ~0ull;

	while ((now = now_ns()) < end_ns && (!options->count || number < options->count)) {
		long due = batch;

		if (options->rate)
			due = (long)((now - start_ns) / 1e9 * options->rate) + 1 - number;
		if (due <= 0) {
			nap();
			continue;
		}
		due = due < batch ? due : batch;
		if (options->count && due > options->count - number)
			due = options->count - number;
		long sent = send_batch(options, sockets, source, number, due);

		if (sent < 0) {
			refused++;
			refusal = strerror(errno);
			sent = 1;
		}
		number += sent;
		/* the next socket; where a batch was cut short some of its sources wait a round */
		source = (source + sources_each(options)) % source_count(options);
	}
	double spent_s = (now_ns() - start_ns) / 1e9, used_s = own_s() - own_before_s;

	if (options->ms)
		usleep(DRAIN_US); /* what is still on its way costs too */
	double wall_s = (now_ns() - start_ns) / 1e9, freed_s = free_s() - free_before_s;

	printf("{\"offered\": %ld, \"refused\": %ld, \"refusal\": \"%s\", \"seconds\": %.6f,"
	       " \"wall_s\": %.6f, \"sender_s\": %.6f, \"busy_s\": %.3f}\n",
	       number, refused, refusal, spent_s, wall_s, used_s,
	       wall_s * sysconf(_SC_NPROCESSORS_ONLN) - freed_s);
	return 0;
}

static int compare(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

/* One question and its answer; the time in ns, 0 where none came. */
static uint64_t ask_once(const struct options *options, const int *sockets, long source,
			 uint32_t number)
{
	char answer[MAX_BYTES], control[CONTROL_BYTES] __attribute__((aligned(8)));
	struct iovec vector = {buffers[0], options->size};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
	int socket = sockets[source / sources_each(options)];
	struct stamp *got = (void *)answer;
	uint64_t start_ns = now_ns();
	struct stamp stamp = {MAGIC, options->run, number, options->size, ANSWER, 0, start_ns};
	long bytes;

	memcpy(buffers[0], &stamp, sizeof(stamp));
	address_message(&message, control, options, source);
	sendmsg(socket, &message, 0);
	do
		bytes = recv(socket, answer, sizeof(answer), 0);
	while (bytes > 0 && (got->run != stamp.run || got->number != number));
	return bytes > 0 ? now_ns() - start_ns : 0;
}

int ask(const struct options *options, const int *sockets)
{
	uint64_t *times_ns = malloc(options->count * sizeof(*times_ns));
	uint64_t end_ns = options->ms ? now_ns() + options->ms * 1000000ull : ~0ull;
	struct timeval patience = {0, PATIENCE_US};
	long count = 0, lost = 0;

	for (long i = 0; i < options->sockets; i++)
		setsockopt(sockets[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (long number = 1; number <= options->count && now_ns() < end_ns; number++) {
		/* Far from the one before, so that no cache has it by chance. */
		long source = (uint64_t)number * 40503 % source_count(options);
		uint64_t time_ns = ask_once(options, sockets, source, number);

		if (time_ns)
			times_ns[count++] = time_ns;
		else
			lost++;
	}
	if (!count)
		return 3;
	qsort(times_ns, count, sizeof(*times_ns), compare);
	printf("{\"answers\": %ld, \"lost\": %ld, \"p50_ns\": %lu, \"p99_ns\": %lu}\n", count,
	       lost, times_ns[count / 2], times_ns[count * 99 / 100]);
	return 0;
}
