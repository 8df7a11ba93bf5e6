"""Who exists: two users with their tokens, and three organizations.

The tokens are visibly fake and belong to a user, as the host's do; what a token may see follows from its user's
memberships. Nothing here changes while the sandbox runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostedUser:
    """A person. `github_user_id` is a string on the wire although it looks like a number."""

    id: int
    name: str
    token: str
    full_name: str
    github_user_id: str
    role: str

    def to_wire(self) -> dict[str, object]:
        """The host's UserResponse."""
        return {
            "id": self.id,
            "email": f"{self.name}@example.com",
            "github_user_id": self.github_user_id,
            "github_username": self.name,
            "avatar_url": f"https://example.com/avatars/{self.name}.png",
            "full_name": self.full_name,
            "role": self.role,
            "is_admin": self.role == "ADMIN",
        }


@dataclass(frozen=True, slots=True)
class HostedOrganization:
    """A group of users that owns runs."""

    id: int
    name: str
    members: tuple[HostedUser, ...]
    repositories: tuple[str, ...]

    def to_wire(self) -> dict[str, object]:
        """The host's OrganizationResponse."""
        settings = {"enable_pr_creation": True, "enable_rules_detection": True}
        return {"id": self.id, "name": self.name, "settings": settings}

    def repositories_to_wire(self) -> list[dict[str, object]]:
        """The host's RepoResponse for each of its repositories."""
        return [
            {
                "id": self.id * 10 + place,
                "name": name,
                "full_name": f"sandbox/{name}",
                "description": "Not a real repository.",
                "github_id": str(self.id * 10 + place),
                "organization_id": self.id,
                "visibility": "private",
                "archived": False,
                "setup_status": "NOT_SETUP",
                "language": None,
            }
            for place, name in enumerate(self.repositories, 1)
        ]


ALICE = HostedUser(1001, "alice", "sandbox-alice", "Alice Archer", "583231", "ADMIN")
BOB = HostedUser(1002, "bob", "sandbox-bob", "Bob Baker", "583232", "MEMBER")
USERS = (ALICE, BOB)
ORGANIZATIONS: Mapping[int, HostedOrganization] = {
    323: HostedOrganization(323, "Shared Works", USERS, ("example-website", "example-api")),
    401: HostedOrganization(401, "Alice's Workshop", (ALICE,), ("example-anvil",)),
    402: HostedOrganization(402, "Bob's Workshop", (BOB,), ()),
}


def owner(authorization: str | None) -> HostedUser | None:
    """The user behind an `Authorization` header; None when it is missing, malformed or unknown."""
    scheme, _, token = (authorization or "").partition(" ")
    known = (user for user in USERS if user.token == token.strip())
    return next(known, None) if scheme.lower() == "bearer" else None


def organizations_of(user: HostedUser) -> list[HostedOrganization]:
    return [each for each in ORGANIZATIONS.values() if user in each.members]


def without_tokens(text: str) -> str:
    """`text` with each known token replaced by `<its user's name>`."""
    for user in USERS:
        text = text.replace(user.token, f"<{user.name}>")
    return text
