"""JWT-SVIDs: the keys that sign them, and who gets one."""

from legation.authority.jwt.issuance import IssuedToken, JWTIssuance
from legation.authority.jwt.keys import JWTKeys

__all__ = ["IssuedToken", "JWTIssuance", "JWTKeys"]
