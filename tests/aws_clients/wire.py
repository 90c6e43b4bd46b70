"""Holds every answer of the door against botocore's model: each element is a member of the action's output shape, under
its name on the wire and of its type. botocore itself is lenient: what it does not know it skips."""

import re
from xml.etree import ElementTree

NAMESPACES = {
    "ec2": "http://ec2.amazonaws.com/doc/2016-11-15/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}

# AWS's API reference shows it in these answers, and the model does not have it. botocore skips it, as it does in
# answers of the actions that have no output shape at all.
BEYOND_THE_MODEL = {("CreateSecurityGroup", "return")}

REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")

SCALARS = {
    "string": re.compile(r".*", re.DOTALL),
    "integer": re.compile(r"-?\d+"),
    "long": re.compile(r"-?\d+"),
    "boolean": re.compile(r"true|false"),
    "timestamp": TIME,
}


class Wire:
    """Remembers which actions and errors it has seen."""

    def __init__(self):
        self.actions = set()
        self.codes = set()

    def watch(self, session):
        """Every client and resource of the boto3 session is watched from here on."""
        session.events.register("before-parse.*.*", self.check)

    def check(self, operation_model, response_dict, **_):
        # An answer that broke off is botocore's to judge.
        if len(response_dict["body"]) < int(response_dict["headers"]["content-length"]):
            return
        service = operation_model.service_model.service_name
        root = ElementTree.fromstring(response_dict["body"])
        if response_dict["status_code"] >= 300:
            request_id = self.check_error(service, root)
        else:
            request_id = self.check_answer(service, operation_model, root)
        assert REQUEST_ID.fullmatch(request_id), request_id
        assert response_dict["headers"]["x-amzn-requestid"] == request_id
        assert response_dict["headers"]["content-type"] == "text/xml;charset=UTF-8"

    def check_answer(self, service, operation_model, root):
        action = operation_model.name
        space = "{%s}" % NAMESPACES[service]
        assert root.tag == f"{space}{action}Response", root.tag
        for element in root.iter():
            assert element.tag.startswith(space) and not element.attrib, element.tag
            element.tag = element.tag.removeprefix(space)
        if service == "sts":
            result, metadata = root
            assert (result.tag, metadata.tag) == (f"{action}Result", "ResponseMetadata")
            (request_id,) = metadata
            assert request_id.tag == "RequestId"
        else:
            request_id, *members = root
            assert request_id.tag == "requestId"
            root.remove(request_id)
            result = root
            for member in members:
                beyond = (action, member.tag) in BEYOND_THE_MODEL
                if beyond or operation_model.output_shape is None and member.tag == "return":
                    assert member.text == "true", member.text
                    root.remove(member)
        if operation_model.output_shape is None:
            assert len(result) == 0, [element.tag for element in result]
        else:
            conform(operation_model.output_shape, result, action)
        self.actions.add(action)
        return request_id.text

    def check_error(self, service, root):
        if service == "sts":
            space = "{%s}" % NAMESPACES[service]
            tags = [element.tag.removeprefix(space) for element in root.iter()]
            assert tags == ["ErrorResponse", "Error", "Type", "Code", "Message", "RequestId"], tags
            (kind, code, message), request_id = root
            assert kind.text in ("Sender", "Receiver"), kind.text
        else:
            tags = [element.tag for element in root.iter()]
            assert tags == ["Response", "Errors", "Error", "Code", "Message", "RequestID"], tags
            ((code, message),), request_id = root
        assert code.text and message.text
        self.codes.add(code.text)
        return request_id.text


def conform(shape, element, path):
    """Fails at what the shape does not have."""
    if shape.type_name == "structure":
        members = {
            member.serialization.get("name", name): member
            for name, member in shape.members.items()
        }
        tags = [child.tag for child in element]
        assert len(tags) == len(set(tags)), f"{path}: twice in {tags}"
        assert not (element.text or "").strip(), f"{path}: text {element.text!r}"
        for child in element:
            assert child.tag in members, f"{path}.{child.tag} is no member of {shape.name}"
            conform(members[child.tag], child, f"{path}.{child.tag}")
    elif shape.type_name == "list":
        assert not (element.text or "").strip(), f"{path}: text {element.text!r}"
        name = shape.member.serialization.get("name", "member")
        for child in element:
            assert child.tag == name, f"{path}: {child.tag}, not {name}"
            conform(shape.member, child, f"{path}[]")
    else:
        text = element.text or ""
        assert len(element) == 0, f"{path} has members"
        assert SCALARS[shape.type_name].fullmatch(text), f"{path}: {text!r} is no {shape.type_name}"
