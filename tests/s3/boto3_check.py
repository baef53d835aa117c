"""Drives a holdfast server with boto3 as applications do: argv is endpoint, CA file ("" over HTTP), bucket."""
import hashlib, io, os, sys, urllib.request, ssl
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

endpoint, ca, bucket = sys.argv[1:4]
s3 = boto3.client("s3", endpoint_url=endpoint, verify=ca or None, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}))


def code(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


s3.create_bucket(Bucket=bucket)
assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]
s3.head_bucket(Bucket=bucket)
s3.get_bucket_location(Bucket=bucket)

for size in (0, 1, 16384, 16385, 524288, 524289, 9_000_001):
    body = os.urandom(size)
    put = s3.put_object(Bucket=bucket, Key="o", Body=body, Metadata={"colour": "blå"[:2] + "a"}, ContentType="text/x-test", CacheControl="no-cache")
    assert put["ETag"] == '"%s"' % hashlib.md5(body).hexdigest(), size
    got = s3.get_object(Bucket=bucket, Key="o")
    assert got["Body"].read() == body, size
    assert got["ContentType"] == "text/x-test" and got["CacheControl"] == "no-cache" and got["Metadata"]["colour"] == "bla", got["Metadata"]
    head = s3.head_object(Bucket=bucket, Key="o")
    assert head["ContentLength"] == size
    if size > 10:
        part = s3.get_object(Bucket=bucket, Key="o", Range="bytes=3-9")
        assert part["Body"].read() == body[3:10] and part["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert s3.get_object(Bucket=bucket, Key="o", Range="bytes=-7")["Body"].read() == body[-7:]
    assert code(s3.get_object, Bucket=bucket, Key="o", Range="bytes=%d-" % size) == "InvalidRange", size

body = os.urandom(30 << 20)
s3.upload_fileobj(io.BytesIO(body), bucket, "big", Config=TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20))
assert s3.head_object(Bucket=bucket, Key="big")["ETag"].endswith('-5"')
out = io.BytesIO()
s3.download_fileobj(bucket, "big", out)
assert out.getvalue() == body

upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
etags = {}
for n in (3, 1, 2):
    etags[n] = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=n, Body=body[(n - 1) * (5 << 20) : n * (5 << 20)])["ETag"]
copied = s3.upload_part_copy(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=4, CopySource={"Bucket": bucket, "Key": "big"}, CopySourceRange="bytes=0-99")
etags[4] = copied["CopyPartResult"]["ETag"]
assert [p["PartNumber"] for p in s3.list_parts(Bucket=bucket, Key="parts", UploadId=upload)["Parts"]] == [1, 2, 3, 4]
assert upload in [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]]
bad = {"Parts": [{"PartNumber": 2, "ETag": etags[2]}, {"PartNumber": 1, "ETag": etags[1]}]}
assert code(s3.complete_multipart_upload, Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=bad) == "InvalidPartOrder"
done = {"Parts": [{"PartNumber": n, "ETag": etags[n]} for n in (1, 2, 3, 4)]}
s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=done)
assert s3.get_object(Bucket=bucket, Key="parts")["Body"].read() == body[: 15 << 20] + body[:100]
aborted = s3.create_multipart_upload(Bucket=bucket, Key="gone")["UploadId"]
s3.abort_multipart_upload(Bucket=bucket, Key="gone", UploadId=aborted)
assert code(s3.list_parts, Bucket=bucket, Key="gone", UploadId=aborted) == "NoSuchUpload"

for i in range(25):
    s3.put_object(Bucket=bucket, Key="list/%02d/x" % i, Body=b"")
pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 7}))
assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["list/%02d/" % i for i in range(25)]
pages = list(s3.get_paginator("list_objects").paginate(Bucket=bucket, Prefix="list/", PaginationConfig={"PageSize": 7}))
assert len([o for page in pages for o in page["Contents"]]) == 25

assert code(s3.get_object, Bucket=bucket, Key="none") == "NoSuchKey"
assert code(s3.head_object, Bucket=bucket, Key="none") == "404"
assert code(s3.get_object, Bucket="no-such-bucket-here", Key="x") == "NoSuchBucket"
assert code(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
assert code(s3.get_bucket_policy, Bucket=bucket) == "NoSuchBucketPolicy"
assert code(s3.get_bucket_cors, Bucket=bucket) == "NoSuchCORSConfiguration"
assert code(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == "NoSuchLifecycleConfiguration"

link = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
context = ssl.create_default_context(cafile=ca) if ca else None
urllib.request.urlopen(urllib.request.Request(link, data=b"by link", method="PUT"), context=context)
link = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
assert urllib.request.urlopen(link, context=context).read() == b"by link"

s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
ids = [s3.put_object(Bucket=bucket, Key="v", Body=str(i).encode())["VersionId"] for i in range(3)]
s3.delete_object(Bucket=bucket, Key="v")
assert code(s3.get_object, Bucket=bucket, Key="v") == "NoSuchKey"
for i, version in enumerate(ids):
    assert s3.get_object(Bucket=bucket, Key="v", VersionId=version)["Body"].read() == str(i).encode()
listed = s3.list_object_versions(Bucket=bucket, Prefix="v")
assert [v["VersionId"] for v in listed["Versions"]] == ids[::-1] and len(listed["DeleteMarkers"]) == 1

for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
    for entry in page.get("Versions", []) + page.get("DeleteMarkers", []):
        s3.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
s3.delete_bucket(Bucket=bucket)
print("all checks passed")
