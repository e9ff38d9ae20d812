// SPDX-License-Identifier: GPL-2.0-only
/* Counts what arrives, answers what asks for it, and tells both on request. */
#include "load.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NUMBERS (1u << 25) /* beyond, the marks of what was seen are used again */

/* Written by the receiving thread; the other one reads, and clears it while nothing arrives. */
static struct {
	volatile uint32_t run, highest;
	volatile uint64_t packets, twice, broken, late;
	volatile uint64_t first_ns, last_ns, first_latency_ns, last_latency_ns;
	uint8_t seen[NUMBERS / 8];
} tally;

/* Processor time of the receiving thread so far. */
static double used_s(pthread_t receiver)
{
	struct timespec used = {0};
	clockid_t clock;

	if (!pthread_getcpuclockid(receiver, &clock))
		clock_gettime(clock, &used);
	return used.tv_sec + used.tv_nsec / 1e9;
}

static void *take_orders(void *receiver)
{
	char line[64];
	unsigned run;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "begin %u", &run) == 1) {
			memset(&tally, 0, sizeof(tally));
			tally.run = run;
		}
		printf("{\"packets\": %lu, \"twice\": %lu, \"broken\": %lu, \"late\": %lu,"
		       " \"first_ns\": %lu, \"last_ns\": %lu, \"first_latency_ns\": %lu,"
		       " \"last_latency_ns\": %lu, \"receiver_s\": %.6f}\n",
		       tally.packets, tally.twice, tally.broken, tally.late, tally.first_ns,
		       tally.last_ns, tally.first_latency_ns, tally.last_latency_ns,
		       used_s(*(pthread_t *)receiver));
		fflush(stdout);
	}
	_exit(0); /* whoever gave the orders is gone */
}

static void count(const struct stamp *stamp, uint32_t bytes, uint64_t at_ns)
{
	uint32_t bit = stamp->number % NUMBERS;

	if (bytes < sizeof(*stamp) || stamp->magic != MAGIC || stamp->bytes != bytes) {
		tally.broken++;
		return;
	}
	if (stamp->flags & WARM_UP || stamp->run != tally.run)
		return;
	if (tally.seen[bit / 8] & 1 << bit % 8) {
		tally.twice++;
		return;
	}
	tally.seen[bit / 8] |= 1 << bit % 8;
	if (!tally.packets) {
		tally.first_ns = at_ns;
		tally.first_latency_ns = at_ns - stamp->sent_ns;
	}
	if (stamp->number < tally.highest)
		tally.late++;
	else
		tally.highest = stamp->number;
	tally.last_ns = at_ns;
	tally.last_latency_ns = at_ns - stamp->sent_ns;
	tally.packets++;
}

int serve(const struct options *options)
{
	struct sockaddr_storage from[BATCH];
	struct mmsghdr messages[BATCH];
	struct iovec vectors[BATCH];
	static pthread_t receiver;
	pthread_t orders;
	int udp = open_udp();

	if (bind(udp, (void *)&target, target_bytes))
		die("bind");
	receiver = pthread_self();
	if (pthread_create(&orders, 0, take_orders, &receiver))
		die("pthread_create");
	stay_on(options->cpu);
	printf("{\"ready\": 1}\n");
	fflush(stdout);
	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){buffers[i], MAX_BYTES};
			messages[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
							      .msg_namelen = sizeof(from[i]),
							      .msg_iov = &vectors[i],
							      .msg_iovlen = 1};
		}
		int arrived = recvmmsg(udp, messages, BATCH, MSG_WAITFORONE, 0);
		uint64_t at_ns = now_ns();

		/* An ICMP error of an answer to somebody who has gone says nothing here. */
		if (arrived < 0 && errno != EINTR && errno != ECONNREFUSED)
			die("recvmmsg");
		for (int i = 0; i < arrived; i++) {
			struct stamp *stamp = (void *)buffers[i];
			uint32_t bytes = messages[i].msg_len;

			if (bytes >= sizeof(*stamp) && stamp->flags & ANSWER)
				sendto(udp, stamp, bytes, MSG_DONTWAIT, (void *)&from[i],
				       messages[i].msg_hdr.msg_namelen);
			count(stamp, bytes, at_ns);
		}
	}
}
