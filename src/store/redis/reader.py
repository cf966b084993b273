import hashlib, json, time

def read_token(redis, corp_id, secret):
    """Returns the token, or None if there is none yet. Then wait a moment and try again."""
    app = hashlib.sha256(secret.encode()).hexdigest()[:32]
    text = redis.get(f"wecom:access_token:{corp_id}:{app}")
    document = json.loads(text) if text else {}
    is_valid = document.get("expires_at", 0) > time.time() * 1000
    return document.get("value") if is_valid else None
