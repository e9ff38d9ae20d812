// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where datagrams come from. A socket has one port; with several addresses each message says
 * which one it leaves from (IP_PKTINFO of ip(7)), so that few sockets make many flows.
 */
#include "load.h"

#include <endian.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define FIRST_ADDRESS 0xcb007101u /* 203.0.113.1, for documentation (RFC 5737) */
#define WARM_WINDOW 128
#define ANSWERED (~0ull)

int *open_sources(const struct options *options)
{
	int *sockets = calloc(options->sockets, sizeof(*sockets));
	int yes = 1, bytes = options->size;

	for (long i = 0; i < options->sockets; i++) {
		struct sockaddr_storage own = {.ss_family = target.ss_family};

		sockets[i] = open_udp();
		/* sin_port and sin6_port are at the same place */
		((uint16_t *)&own)[1] = htobe16(options->port ? options->port + i : 0);
		setsockopt(sockets[i], SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
		if (bind(sockets[i], (void *)&own, target_bytes))
			die("bind");
		/* A connected socket would take what was sent to one of its addresses alone. */
		if (!options->addresses && connect(sockets[i], (void *)&target, target_bytes))
			die("connect");
		if (options->segments > 1 &&
		    setsockopt(sockets[i], IPPROTO_UDP, UDP_SEGMENT, &bytes, sizeof(bytes)))
			die("UDP_SEGMENT");
	}
	return sockets;
}

/* Give a message its way: nothing for a connected socket, else both ends. */
void address_message(struct msghdr *message, char *control, const struct options *options,
		     long source)
{
	struct cmsghdr *header = (void *)control;
	struct in_pktinfo info = {0};

	if (!options->addresses)
		return;
	message->msg_name = &target;
	message->msg_namelen = target_bytes;
	info.ipi_spec_dst.s_addr = htobe32(FIRST_ADDRESS + source % options->addresses);
	header->cmsg_len = CMSG_LEN(sizeof(info));
	header->cmsg_level = IPPROTO_IP;
	header->cmsg_type = IP_PKTINFO;
	memcpy(CMSG_DATA(header), &info, sizeof(info));
	message->msg_control = control;
	message->msg_controllen = CMSG_SPACE(sizeof(info));
}

static void ask_for_warmth(const struct options *options, const int *sockets, long source)
{
	char control[CONTROL_BYTES] __attribute__((aligned(8)));
	struct stamp stamp = {MAGIC, 0, source, options->size, ANSWER | WARM_UP, 0, 0};
	struct iovec vector = {buffers[0], options->size};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

	memcpy(buffers[0], &stamp, sizeof(stamp));
	address_message(&message, control, options, source);
	sendmsg(sockets[source / sources_each(options)], &message, MSG_DONTWAIT);
}

/* How many sources got their first answer among those that wait at one socket. */
static long take_answers(int socket, uint64_t *asked_ns)
{
	char answer[MAX_BYTES];
	struct stamp *stamp = (void *)answer;
	long fresh = 0;

	while (recv(socket, answer, sizeof(answer), MSG_DONTWAIT) >= (long)sizeof(*stamp)) {
		if (stamp->magic == MAGIC && stamp->flags & WARM_UP) {
			fresh += asked_ns[stamp->number] != ANSWERED;
			asked_ns[stamp->number] = ANSWERED;
		}
	}
	return fresh;
}

/*
 * A datagram and its answer on every source, a window of them under way at a time; again where
 * none came. Returns how many sources had no answer in time.
 */
long warm_up(const struct options *options, const int *sockets)
{
	long next = 0, answered = 0, total = source_count(options);
	uint64_t end_ns = now_ns() + options->warm_ms * 1000000ull;
	uint64_t again_ns = total > 1 ? 1000000000ull : 100000000ull;
	uint64_t *asked_ns = calloc(total, sizeof(*asked_ns));
	struct epoll_event ready[BATCH];
	int poll = epoll_create1(0);

	for (long i = 0; i < options->sockets; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u64 = i};

		if (epoll_ctl(poll, EPOLL_CTL_ADD, sockets[i], &event))
			die("epoll_ctl");
	}
	while (answered < total && now_ns() < end_ns) {
		for (; next < total && next - answered < WARM_WINDOW; next++) {
			asked_ns[next] = now_ns();
			ask_for_warmth(options, sockets, next);
		}
		int count = epoll_wait(poll, ready, BATCH, 20);

		for (int i = 0; i < count; i++)
			answered += take_answers(sockets[ready[i].data.u64], asked_ns);
		for (long i = 0; count <= 0 && i < next; i++) {
			if (asked_ns[i] != ANSWERED && now_ns() - asked_ns[i] > again_ns) {
				asked_ns[i] = now_ns();
				ask_for_warmth(options, sockets, i);
			}
		}
	}
	close(poll);
	free(asked_ns);
	return total - answered;
}
