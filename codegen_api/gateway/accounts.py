"""The caller's identity, and the organizations, users and repositories that the host shows to the caller."""

from dataclasses import dataclass, field
from functools import partial

from cachetools import TTLCache

from codegen_api.errors import Forbidden, OrganizationRequired, Unsupported, UpstreamError
from codegen_api.following import loop_time
from codegen_api.gateway.host_reads import Reads, with_retries
from codegen_api.gateway.ownership import on_behalf_of
from codegen_api.gateway.run_lists import SEARCHED_PAGES
from codegen_api.identity import Caller, Credential
from codegen_api.runs import Paging
from codegen_api.upstreams import Listing, Members, Organization, Repositories, Repository, Upstream, User


@dataclass(eq=False, slots=True)
class Accounts:
    """People and organizations at the host. ``default`` is the organization used when a request names none."""

    upstream: Upstream
    reads: Reads
    default: str | None
    _only_organization: TTLCache[str, str] = field(default_factory=lambda: TTLCache(10_000, 60, timer=loop_time))

    async def identify(self, credential: Credential) -> User:
        """The user whose credential this is, according to the host."""
        return await with_retries(lambda: self.upstream.identify(credential))

    async def me(self, caller: Caller) -> User:
        """The caller, as the host knows them or, for a shared caller, as their authority does."""
        if not caller.shared:
            return await self.identify(caller.credential)
        principal, scopes = caller.principal, sorted(caller.scopes)
        return User(principal.user, {"id": principal.user, "authority": principal.authority, "scopes": scopes})

    async def organizations(self, caller: Caller, skip: int, limit: int) -> Listing[Organization]:
        """The organizations that the caller may use."""
        only, credential = self._only_allowed(caller), caller.credential
        key, read = ("organizations", credential.digest), partial(self.upstream.organizations, credential)
        with on_behalf_of(caller, of_a_run=False):
            if only is None:
                return await self.reads.listing(credential, key, read, skip, limit)
            position, pages, found = 0, SEARCHED_PAGES, []
            while pages > 0:
                listing = await self.reads.listing(credential, key, read, position, self.upstream.page_size)
                pages -= listing.pieces
                found += [each for each in listing.items if each.id == only]
                position += listing.length
                if found or listing.at_end:
                    break
        items = tuple(found[skip : skip + limit])
        return Listing(items, Paging(len(found), None, limit, None), at_end=True)

    async def organization(self, caller: Caller, wanted: str | None) -> str:
        """The effective organization: the one named, the deployment's, or the caller's only one.

        Raises:
            OrganizationRequired: there are several to choose from, or none.
            Forbidden: the caller may not use the one they named.
        """
        only = self._only_allowed(caller)
        if wanted is not None:
            named = self.upstream.organization_id(wanted)
            if only not in (None, named):
                raise Forbidden("You may not enter this organization.")
            return named
        if only is not None or self.default is not None:
            return only or str(self.default)
        known = self._only_organization.get(caller.credential.digest)
        if known is None:
            choices = await self.organizations(caller, 0, self.upstream.page_size)
            if len(choices.items) != 1:
                raise OrganizationRequired(details=[choice.fields for choice in choices.items])
            if choices.next(0) is not None:
                raise UpstreamError("The host did not list all of your organizations.")
            known = self._only_organization[caller.credential.digest] = choices.items[0].id
        return known

    async def users(self, caller: Caller, organization: str, skip: int, limit: int) -> Listing[User]:
        """The members of an organization.

        Raises:
            Forbidden: the caller is shared, and the host would show what the deployment's account sees.
            Unsupported: this host has no such list.
        """
        read = partial(self._members(caller).users, caller.credential, organization)
        return await self.reads.listing(caller.credential, ("users", organization), read, skip, limit)

    async def user(self, caller: Caller, organization: str, user_id: str) -> User:
        """One member; raises as ``users``."""
        members, credential = self._members(caller), caller.credential
        return await self.reads.one(credential, lambda: members.user(credential, organization, user_id))

    async def repositories(self, caller: Caller, organization: str, skip: int, limit: int) -> Listing[Repository]:
        """The repositories that the organization's agents can work in.

        Raises:
            Forbidden: the caller is shared, and the host would show what the deployment's account sees.
            Unsupported: this host has no such list.
        """
        if caller.shared:
            raise Forbidden("The repositories of the account that this gateway uses are not shown.")
        if not isinstance(self.upstream, Repositories):
            raise Unsupported("The host does not tell which repositories there are.")
        read = partial(self.upstream.repositories, caller.credential, organization)
        return await self.reads.listing(caller.credential, ("repositories", organization), read, skip, limit)

    def _members(self, caller: Caller) -> Members:
        if caller.shared:
            raise Forbidden("The users of the account that this gateway uses are not shown.")
        if not isinstance(self.upstream, Members):
            raise Unsupported("The host does not tell who is in an organization.")
        return self.upstream

    def _only_allowed(self, caller: Caller) -> str | None:
        """The only organization that the caller may use; None if that is up to the host."""
        if caller.organization is not None:
            return self.upstream.organization_id(caller.organization)
        return self.default if caller.shared else None
