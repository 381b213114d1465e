"""A kinship node as a program of its own, for ``kinship_peer``: commands in, sightings out.

Run as ``python kinship_host.py NAME ADDRESS [SEED …]``. It reads ``tell NEWS``, ``view`` and
``leave`` from its input, a line each, and prints ``ready``, ``online NAME``, ``suspect NAME``,
``offline NAME``, ``left NAME``, ``news NEWS`` and ``view NAME,NAME…``. It is kept this small so
that its memory and processor time are kinship's. kinship speaks asyncio only, hence no trio here.
"""

import asyncio
import sys

import kinship


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def tell_events(events: kinship.EventStream) -> None:
    async for event in events:
        match event:
            case kinship.MemberJoined(member=member) | kinship.MemberRecovered(member=member):
                say("online", member.name)
            case kinship.MemberSuspect(member=member):
                say("suspect", member.name)
            case kinship.MemberDead(member=member):
                say("offline", member.name)
            case kinship.MemberLeft(member=member):
                say("left", member.name)
            case kinship.UserMessage(data=data):
                say("news", data.decode())
            case kinship.EventsLost(count=count):
                raise RuntimeError(f"{count} events were lost")


async def main(name: str, address: str, seeds: list[str]) -> None:
    config = kinship.Config.lan(name=name, bind=address, seeds=seeds, insecure_plaintext=True)
    cluster = kinship.Cluster(config)
    await cluster.start()
    events = asyncio.create_task(tell_events(cluster.events()))
    for member in cluster.members():
        say("online", member.name)
    say("ready")
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        match line.decode().split():
            case ["tell", news]:
                await cluster.broadcast(news.encode())
                say("news", news)
            case ["view"]:
                say("view", ",".join(member.name for member in cluster.members()))
            case ["leave"]:
                await cluster.leave()
                break
    await cluster.close()
    await events


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
