# Run by scripts/check-deploy with `terraform test` or `tofu test`.

run "the_defaults_are_the_documents_themselves" {
  command = plan

  assert {
    condition     = jsondecode(output.target) == jsondecode(file("../../iam/target.json"))
    error_message = "target.json"
  }
  assert {
    condition     = jsondecode(output.target_trust) == jsondecode(file("../../iam/target-trust.json"))
    error_message = "target-trust.json"
  }
  assert {
    condition     = jsondecode(output.server) == jsondecode(file("../../iam/server.json"))
    error_message = "server.json"
  }
  assert {
    condition     = jsondecode(output.server_trust) == jsondecode(file("../../iam/server-trust.json"))
    error_message = "server-trust.json"
  }
}

run "the_default_is_that_of_pod_identity" {
  command = plan
  variables {
    runs_on = "pod-identity"
  }
  assert {
    condition     = jsondecode(output.server_trust) == jsondecode(file("../../iam/server-trust-pod-identity.json"))
    error_message = "server-trust-pod-identity.json"
  }
}

run "the_default_is_that_of_an_instance" {
  command = plan
  variables {
    runs_on = "instance"
  }
  assert {
    condition     = jsondecode(output.server_trust) == jsondecode(file("../../iam/server-trust-instance.json"))
    error_message = "server-trust-instance.json"
  }
}

run "china_has_a_name_of_its_own_for_instances" {
  command = plan
  variables {
    runs_on         = "instance"
    partition       = "aws-cn"
    server_role_arn = "arn:aws-cn:iam::999988887777:role/door"
  }
  assert {
    condition     = jsondecode(output.server_trust).Statement[0].Principal.Service == "ec2.amazonaws.com.cn"
    error_message = "EC2 of the other partition is let in"
  }
}

run "pod_identity_is_of_one_cluster" {
  command = plan
  variables {
    runs_on         = "pod-identity"
    server_role_arn = "arn:aws:iam::999988887777:role/door"
    cluster_arn     = "arn:aws:eks:eu-west-1:999988887777:cluster/mine"
  }
  assert {
    condition = jsondecode(output.server_trust).Statement[0].Condition == {
      StringEquals = { "aws:SourceAccount" = ["999988887777"] }
      ArnEquals    = { "aws:SourceArn" = ["arn:aws:eks:eu-west-1:999988887777:cluster/mine"] }
    }
    error_message = "pods of another cluster are let in"
  }
}

run "what_it_runs_on_is_known" {
  command = plan
  variables {
    runs_on = "lambda"
  }
  expect_failures = [var.runs_on]
}

run "no_sample_value_is_left" {
  command = plan

  variables {
    partition          = "aws-us-gov"
    account_id         = "210987654321"
    regions            = ["us-gov-west-1"]
    vpc_ids            = ["vpc-1", "vpc-2"]
    managed_tag_values = ["yes"]
    external_id        = "mine"
    server_role_arn    = "arn:aws-us-gov:iam::999988887777:role/door"
    target_role_arns   = ["arn:aws-us-gov:iam::210987654321:role/groups"]
    oidc_issuer        = "oidc.eks.us-gov-west-1.amazonaws.com/id/MINE"
    service_account    = "system:serviceaccount:net:door"
  }

  assert {
    condition = length(regexall(
      "123456789012|111122223333|arn:aws:|us-east-1|eu-west-1|replace-me|EXAMPLE|vpc-0123|serviceaccount:portcullis|\"true\"",
      join("", [output.target, output.target_trust, output.server, output.server_trust]),
    )) == 0
    error_message = "a sample value is left"
  }
  assert {
    condition     = jsondecode(output.target).Statement[1].Condition.ArnEquals["ec2:Vpc"][1] == "arn:aws-us-gov:ec2:*:210987654321:vpc/vpc-2"
    error_message = "the VPCs are not asked for"
  }
  assert {
    condition     = [for statement in jsondecode(output.server).Statement : statement.Resource] == [["arn:aws-us-gov:iam::210987654321:role/groups"], ["arn:aws-us-gov:iam::210987654321:role/groups"]]
    error_message = "the service may become another role"
  }
  assert {
    condition     = jsondecode(output.server_trust).Statement[0].Principal.Federated == "arn:aws-us-gov:iam::999988887777:oidc-provider/oidc.eks.us-gov-west-1.amazonaws.com/id/MINE"
    error_message = "the OIDC provider is another account's"
  }
  assert {
    condition     = jsondecode(output.server_trust).Statement[0].Condition.StringEquals["oidc.eks.us-gov-west-1.amazonaws.com/id/MINE:sub"][0] == "system:serviceaccount:net:door"
    error_message = "another service account is let in"
  }
}

run "what_is_not_asked_for_leaves_no_empty_condition" {
  command = plan

  variables {
    vpc_ids               = []
    managed_tag_values    = []
    external_id           = ""
    create_and_delete     = false
    explain_denials       = false
    session_per_principal = false
  }

  assert {
    condition     = jsondecode(output.target).Statement[1].Condition == { StringEquals = { "ec2:Region" = ["us-east-1", "eu-west-1"] } }
    error_message = "the Regions, and nothing else, are asked for"
  }
  assert {
    condition     = [for statement in jsondecode(output.target).Statement : statement.Sid] == ["SeeGroups", "ChangeRules", "TagRulesAsTheyAreMade", "TagWhatIsCreated"]
    error_message = "what is not wanted is left out"
  }
  assert {
    condition     = !can(jsondecode(output.target_trust).Statement[0].Condition) && length(jsondecode(output.target_trust).Statement) == 1
    error_message = "only AssumeRole is let in"
  }
  assert {
    condition     = [for statement in jsondecode(output.server).Statement : statement.Action] == [["sts:AssumeRole"]]
    error_message = "the service may name and tag sessions that it does not make"
  }
}

run "accounts_are_accounts" {
  command = plan
  variables {
    account_id = "123"
  }
  expect_failures = [var.account_id]
}

run "regions_are_named" {
  command = plan
  variables {
    regions = []
  }
  expect_failures = [var.regions]
}
